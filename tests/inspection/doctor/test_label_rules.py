"""Rules on labels, padding, divisors and precision: the numbers they print, and near misses that stay silent."""

from __future__ import annotations

import math

import pytest
import torch

from tests.inspection.doctor.support import examined, found
from xent.inspection.examination._report import Report

HEAD = "import torch\nimport torch.nn.functional as F\n"


def values(report: Report, slug: str) -> dict[str, float]:
    (finding,) = [finding for finding in report.findings if finding.rule == slug]
    return dict(finding.values)


def slugs(source: str) -> list[str]:
    return [slug for slug, _ in found(examined(HEAD + source))]


def test_the_floor_of_smoothing() -> None:
    report = examined(HEAD + "F.cross_entropy(torch.zeros(4, 10), torch.arange(4), label_smoothing=0.1)")
    numbers = values(report, "label-smoothing-floor")
    floor = -(0.91 * math.log(0.91) + 9 * 0.01 * math.log(0.01))
    assert numbers["floor"] == pytest.approx(floor, rel=1e-12)
    assert numbers["distance"] == pytest.approx(math.log(10) - floor, rel=1e-6)  # a float32 loss
    summed = examined(HEAD + "F.cross_entropy(torch.zeros(4, 10), torch.arange(4), label_smoothing=1, reduction='sum')")
    assert values(summed, "label-smoothing-floor")["floor"] == pytest.approx(math.log(10), rel=1e-12)


def test_both_values_of_a_weighted_mean() -> None:
    program = "F.cross_entropy(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]), weight=torch.tensor([1.0, 9.0]))"
    numbers = values(examined(HEAD + program), "weighted-mean-denominator")
    assert numbers["weights"] == 12
    assert numbers["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert numbers["by_rows"] == pytest.approx(3 * math.log(2), rel=1e-6)
    assert slugs(program.replace("9.0", "1.0")) == []
    assert slugs(program.replace("]))", "]), reduction='sum')")) == []


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 7), ("float16", 10)])
def test_the_quantum_of_a_half_loss(dtype: str, digits: int) -> None:
    program = f"F.cross_entropy(torch.zeros(4, 100, dtype=torch.{dtype}), torch.arange(4))"
    numbers = values(examined(HEAD + program), "low-precision-loss")
    assert numbers["quantum"] == 4 * 2.0**-digits  # ln 100 = 4.6 lies between 4 and 8
    assert slugs(f"F.cross_entropy(torch.zeros(4, 100, dtype=torch.{dtype}).float(), torch.arange(4))") == []


def test_log_probs_that_autocast_widens_afterwards() -> None:
    program = (
        "model = torch.nn.Linear(4, 9)\n"
        "with torch.autocast('cpu', dtype=torch.bfloat16):\n"
        "    F.nll_loss(model(torch.randn(5, 4)).log_softmax(1), torch.arange(5))\n"
    )
    assert slugs(program) == ["low-precision-loss"]


def test_both_values_of_a_wrong_pick() -> None:
    program = (
        "x, y = torch.eye(3).requires_grad_(), torch.tensor([0, 1, 2])\nlp = x.log_softmax(1)\nloss = -{}.mean()\n"
    )
    report = examined(HEAD + program.format("lp[:, y]"))
    log_probs = torch.eye(3).double().log_softmax(1)
    numbers = values(report, "nll-index-wrong")
    assert numbers["right"] == pytest.approx(-float(log_probs[0, 0]), rel=1e-6)
    assert numbers["wrong"] == pytest.approx(-float(log_probs.mean()), rel=1e-6)
    assert found(report) == [("nll-index-wrong", 5)]  # where it is made a number, not at a backward
    assert slugs(program.format("lp[0, y]")) == ["nll-index-wrong"]
    assert slugs(program.format("lp[torch.arange(3), y]")) == []
    assert slugs(program.format("lp[:, :2]")) == []


@pytest.mark.parametrize(
    ("written", "is_found"),
    [
        ("x.softmax(1).log()", True),
        ("(x.exp() / x.exp().sum(1, keepdim=True)).log()", True),
        ("x - x.exp().sum(1, keepdim=True).log()", True),
        ("x - x.logsumexp(1, keepdim=True)", False),
        ("(x - x.amax(1, keepdim=True)) - (x - x.amax(1, keepdim=True)).exp().sum(1, keepdim=True).log()", False),
        ("x.log_softmax(1)", False),
    ],
)
@pytest.mark.parametrize("backward", ["", ".backward()"])
def test_log_probs_written_out(written: str, is_found: bool, backward: str) -> None:
    program = f"x, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])\nlp = {written}\n"
    expected = ["hand-written-log-softmax"] if is_found else []
    assert slugs(program + f"(-lp[torch.arange(4), y].mean()){backward}") == expected
    assert slugs(program + f"F.nll_loss(lp, y){backward}") == expected


def test_an_entropy_is_no_loss_of_picks() -> None:
    assert (
        slugs("p = torch.randn(4, 3, requires_grad=True).softmax(1)\n(-(p * p.log()).sum(1).mean()).backward()") == []
    )


MODEL = "model = torch.nn.Sequential(torch.nn.Embedding(40, 8), torch.nn.Linear(8, 40))\n"


@pytest.mark.parametrize(
    ("ids", "logits", "target", "expected"),
    [
        ("text", "model(ids)", "ids", "labels-not-shifted"),
        ("text", "model(ids)[:, 1:]", "ids[:, 1:]", "labels-not-shifted"),
        ("text", "model(ids)[:, :-1]", "ids[:, 1:]", None),
        ("text[:, :-1]", "model(ids)", "text[:, 1:]", None),
        ("text", "model(ids)[:, :-2]", "ids[:, 2:]", "labels-shifted-twice"),
        ("torch.arange(48).view(4, 12) % 2", "model(ids)", "ids", None),  # periodic: it matches at every second shift
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_shifts(ids: str, logits: str, target: str, expected: str | None, flat: bool) -> None:
    loss = (
        f"F.cross_entropy(({logits}).reshape(-1, 40), ({target}).reshape(-1))"
        if flat
        else f"F.cross_entropy(({logits}).transpose(1, 2), {target})"
    )
    program = f"text = torch.randint(40, (4, 12))\nids = {ids}\n{MODEL}{loss}.backward()\n"
    assert slugs(program) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("target", "shift", "expected"),
    [("ids", 1, []), ("ids", 0, ["labels-not-shifted"]), ("ids.roll(-1, 1)", 1, ["labels-shifted-twice"])],
)
@pytest.mark.parametrize(
    "loss",
    [
        "xent.cross_entropy(model(ids), {}, dim=-1, shift={})",
        "xent.linear_cross_entropy(model[0](ids), model[1].weight, {}, shift={})",
    ],
)
def test_xents_own_shift(loss: str, target: str, shift: int, expected: list[str]) -> None:
    """At most the last token, which `roll` puts in front, is off: 4 of 40 targets would be too many to tell."""
    program = f"import xent\nids = torch.randint(40, (2, 120))\n{MODEL}{loss.format(target, shift)}.backward()\n"
    assert slugs(program) == expected


def test_a_shifted_loss_at_its_level() -> None:
    """Copies of the text, so that logits and targets that are not moved by the shift would look like a wrong scale."""
    program = (
        "import xent\nids = (torch.arange(160).view(4, 40) * 7) % 40\nhead = torch.nn.Linear(40, 40, bias=False)\n"
        "head.weight.data = 30 * torch.eye(40).roll(7, 0)\nx = torch.eye(40)[ids]\n"
        "xent.linear_cross_entropy(x, head.weight, ids, shift=1).backward()\n"
    )
    assert slugs(program) == []


def test_an_autoencoder_whose_decoder_reads_shifted_ids_is_right() -> None:
    program = (
        "ids = torch.randint(40, (4, 12))\nread, write = torch.nn.Embedding(40, 8), torch.nn.Embedding(40, 8)\n"
        "head = torch.nn.Linear(8, 40)\nbegun = torch.cat([torch.zeros(4, 1).long(), ids[:, :-1]], 1)\n"
        "logits = head(write(begun) + read(ids).mean(1, keepdim=True))\n"
        "F.cross_entropy(logits.transpose(1, 2), ids).backward()\n"
    )
    assert slugs(program) == []


AUTOENCODERS = {
    "a recurrent one": (
        "encoder, decoder = torch.nn.GRU(8, 6, batch_first=True), torch.nn.GRU(6, 8, batch_first=True)\n"
        "code = encoder(read(ids))[1][0]\nstates = decoder(code[:, None].expand(-1, 12, -1))[0]\n"
    ),
    "of flattened words": (
        "squeeze, widen = torch.nn.Linear(96, 12), torch.nn.Linear(12, 96)\n"
        "states = widen(squeeze(read(ids).flatten(1)).relu()).view(-1, 12, 8)\n"
    ),
    "by strides": (
        "down, up = torch.nn.Conv1d(8, 8, 4, 4), torch.nn.ConvTranspose1d(8, 8, 4, 4)\n"
        "states = up(down(read(ids).transpose(1, 2))).transpose(1, 2)\n"
    ),
    "by a mean": (
        "encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)\n"
        "states = torch.randn(12, 8) + encoder(read(ids)).mean(1, keepdim=True)\n"
    ),
}


@pytest.mark.parametrize("rows", [5, 12])
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_that_reads_what_it_writes_is_right(name: str, rows: int) -> None:
    """All that it read goes through one tensor without positions (also where there are as many rows as positions)."""
    program = (
        f"ids = torch.randint(40, ({rows}, 12))\nread, head = torch.nn.Embedding(40, 8), torch.nn.Linear(8, 40)\n"
        f"{AUTOENCODERS[name]}F.cross_entropy(head(states).transpose(1, 2), ids).backward()\n"
    )
    assert slugs(program) == []
    assert slugs(program.replace("head(states)", "head(states + read(ids))")) == ["labels-not-shifted"]


@pytest.mark.parametrize("layer", ["torch.nn.GRU(8, 8, 2, batch_first=True)", "torch.nn.LSTM(8, 8, batch_first=True)"])
def test_states_of_all_positions_are_no_narrow_place(layer: str) -> None:
    """Torch unrolls a GRU on the CPU: sixteen results of one node, one for each position."""
    program = (
        f"ids = torch.randint(40, (6, 16))\nread, head = torch.nn.Embedding(40, 8), torch.nn.Linear(8, 40)\nrnn = {layer}\n"
        "F.cross_entropy(head(rnn(read(ids))[0]).transpose(1, 2), ids).backward()\n"
    )
    (finding,) = examined(HEAD + program).findings
    assert (finding.rule, finding.certainty) == ("labels-not-shifted", "signature")
    assert "Intended if it corrects" in finding.message


def test_noise_that_is_taken_out_again_is_no_copy() -> None:
    """A corrector of spelling: 1 letter of 80 is wrong in the second batch, none in the first."""
    program = (
        f"{MODEL}for wrong in {{}}:\n    ids = torch.randint(40, (4, 20))\n    read = ids.clone()\n"
        "    read[0, 3] = (read[0, 3] + wrong) % 40\n    F.cross_entropy(model(read).transpose(1, 2), ids).backward()\n"
    )
    assert slugs(program.format("(0, 1)")) == []
    assert slugs(program.format("(1,)")) == []
    assert slugs(program.format("(0, 0)")) == ["labels-not-shifted"]


@pytest.mark.parametrize("order", ["1, 2", "2, 1"])
def test_heads_that_predict_further_tokens_are_right(order: str) -> None:
    """Beside one that predicts the next, on a line of its own or in the same loop."""
    body = (
        f"{MODEL}far = torch.nn.Linear(8, 40)\nids = torch.randint(40, (4, 12))\nh = model[0](ids)\n"
        "near_loss = lambda: F.cross_entropy(model[1](h)[:, :-1].transpose(1, 2), ids[:, 1:])\n"
        "far_loss = lambda: F.cross_entropy(far(h)[:, :-2].transpose(1, 2), ids[:, 2:])\n"
    )
    both = f"losses = [near_loss, far_loss]\nsum(losses[n - 1]() for n in ({order})).backward()\n"
    assert slugs(body + both) == []
    assert slugs(body + "far_loss().backward()\n") == ["labels-shifted-twice"]
    later = (
        body + "far_loss().backward()\nids = torch.randint(40, (4, 12))\nh = model[0](ids)\nnear_loss().backward()\n"
    )
    assert slugs(later) == ["labels-shifted-twice"]  # of another text


DECODER = """
read = torch.nn.Embedding(40, 8)
encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
decoder = torch.nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
head = torch.nn.Linear(8, 40)
text = torch.randint(40, (4, 13))
ids, target = text[:, :-1], text[:, 1:]
begun = torch.cat([torch.zeros(4, 1).long(), target[:, :-1]], 1)
mask = torch.nn.Transformer.generate_square_subsequent_mask(12)
logits = head(decoder(read({}), encoder(read({})), tgt_mask=mask)).log_softmax(-1)
F.nll_loss(logits.view(-1, 40), target.reshape(-1)).backward()
"""


def test_a_decoder_that_reads_its_own_targets() -> None:
    """Beside an encoder that reads others: the residual stream leads from position t to the prediction at t."""
    (finding,) = examined(HEAD + DECODER.format("target", "ids")).findings
    assert (finding.rule, finding.certainty) == ("labels-not-shifted", "proof")  # no position looks ahead
    assert slugs(DECODER.format("begun", "ids")) == []
    assert slugs(DECODER.format("begun", "target")) == []  # an autoencoder: its encoder may read what is to be said


PADDED = "ids = torch.tensor([[5, 7, 3, 9, 4], [4, 8, 0, 0, 0], [6, 2, 11, 0, 0]])\nlogits = torch.randn(3, 12, 5)\n"


def test_padding_that_counts_and_padding_that_does_not() -> None:
    assert slugs(PADDED + "F.cross_entropy(logits, ids)") == ["ignore-index-suspect"]
    assert slugs(PADDED + "F.cross_entropy(logits, ids, ignore_index=0)") == []
    assert slugs(PADDED + "F.cross_entropy(logits, ids.masked_fill(ids == 0, -100))") == []
    inside = PADDED.replace("[6, 2, 11", "[6, 0, 11")
    assert slugs(inside + "F.cross_entropy(logits, ids, ignore_index=0)") == ["ignore-index-suspect"]


def test_a_class_at_the_ends_of_two_short_rows_may_be_chance() -> None:
    short = "ids = torch.tensor([[1, 2, 3, 1, 2, 5], [4, 3, 2, 1, 5, 5]])\nlogits = torch.randn(2, 12, 6)\n"
    assert slugs(short + "F.cross_entropy(logits, ids)") == []
    longer = short.replace("[1, 2, 3, 1, 2, 5]", "[1, 2, 3, 5, 5, 5]")
    assert slugs(longer + "F.cross_entropy(logits, ids)") == ["ignore-index-suspect"]


def test_an_end_of_text_that_is_padding() -> None:
    program = PADDED.replace("9, 4]", "9, 0]") + "F.cross_entropy(logits, ids, ignore_index=0)"
    assert slugs(program) == ["eos-masked-as-pad"]
    ended = PADDED.replace("9, 4]", "1, 0]").replace("8, 0", "1, 0").replace("11, 0", "1, 0")  # 1 ends every text
    assert slugs(ended + "F.cross_entropy(logits, ids, ignore_index=0)") == []


def test_the_factor_of_kl_div() -> None:
    logs = "torch.zeros(8, 5).log_softmax(1)"
    with pytest.warns(UserWarning, match="batchmean"):
        report = examined(HEAD + f"F.kl_div({logs}, torch.zeros(8, 5).softmax(1))")
    assert values(report, "kl-div-misuse")["factor"] == 5
    right = f"F.kl_div({logs}, torch.zeros(8, 5).softmax(1), reduction='batchmean')"
    assert slugs(right) == []
    uneven = right.replace(
        "torch.zeros(8, 5).log_softmax", "torch.arange(40.0).view(8, 5).softmax"
    )  # 1/C is no evidence
    assert slugs(uneven) == ["kl-div-misuse"]


def test_edits_of_logits() -> None:
    begin = "x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])\nF.cross_entropy(x, y)\n"
    report = examined(HEAD + begin + "x[0] = 0\n")
    assert found(report) == [("logits-edited-in-place", 4)]
    assert report.findings[0].severity == "info"  # nobody looked again
    again = examined(HEAD + begin + "x[0] = 0\nx[1:] *= 2\nF.cross_entropy(x, y)\n")
    assert found(again) == [("logits-edited-in-place", 7)]
    assert again.findings[0].severity == "warning"
    assert again.findings[0].values == {"edits": 3}  # `x[1:] *= 2` multiplies and writes back
    ranked = (
        "for _ in range(3):\n    x = torch.randn(4, 3)\n    F.cross_entropy(x, torch.arange(4) % 3)\n    x[:, 0] = -9\n"
    )
    assert slugs(ranked) == []
    assert slugs(begin + "z = x.clone()\nz[0] = 0\n") == []
    assert slugs(begin + "x = x * 2\nF.cross_entropy(x, y)\n") == []
    learned = "x = torch.zeros(4, 3, requires_grad=True)\no = torch.optim.SGD([x], 0.1)\n"
    step = "o.zero_grad()\nF.cross_entropy(x, torch.tensor([0, 1, 2, 0])).backward()\no.step()\n"
    assert slugs(learned + 2 * step) == []


def test_a_line_that_always_has_one_row_is_right() -> None:
    assert slugs("for _ in range(3):\n    F.cross_entropy(torch.randn(4), torch.tensor(1))\n") == []
    mixed = (
        "for n in ({}):\n    x = torch.randn(n, 4).squeeze()\n    F.cross_entropy(x, torch.ones(n).long().squeeze())\n"
    )
    assert slugs(mixed.format("1, 2, 1")) == []  # it began with one
    assert slugs(mixed.format("2, 1, 2")) == ["batch-dim-lost"]


def test_padding_that_a_mask_leaves_out() -> None:
    """As the Trainer of transformers smooths its labels: −100 becomes class 0, and its rows become 0."""
    program = (
        "labels = torch.randint(1, 12, (4, 15))\nlabels[0, 8:] = labels[1, 11:] = labels[2, 5:] = -100\n"
        "logits = torch.randn(4, 15, 12, requires_grad=True)\npad = labels.eq(-100).unsqueeze(-1)\n"
        "minus = -logits.log_softmax(-1)\nnll = minus.gather(-1, labels.clamp(min=0).unsqueeze(-1))\n"
        "smooth = minus.sum(-1, keepdim=True)\nnll.masked_fill_(pad, 0.0)\nsmooth.masked_fill_(pad, 0.0)\n"
        "count = pad.numel() - pad.long().sum()\n"
        "(0.9 * nll.sum() / count + 0.1 * smooth.sum() / (count * 12)).backward()\n"
    )
    assert slugs(program) == []
