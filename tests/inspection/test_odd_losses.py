"""Losses that are put together in other ways: what each of them is said to be, and whether the words are true.

The value and the gradient are compared with torch's: 1e-6 of numbers up to 10, float32's rounding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import xent
from tests.edge_cases import BACKENDS_HERE
from tests.inspection.written_losses import BITS, IGNORED, MASK, ROWS, C, N, Q, Y, logits

CE, BCE = F.cross_entropy, F.binary_cross_entropy_with_logits
STEPS = torch.linspace(0.1, 1, N)
NEAR = {"rtol": 1e-5, "atol": 1e-6}
LEARNED = torch.tensor(0.3, requires_grad=True)
DOCUMENTS = torch.tensor([0, 0, 1, 1, 1, 2])


def each(x: Tensor) -> Tensor:
    return CE(x, Y, reduction="none")


def each_bit(x: Tensor, **options) -> Tensor:
    return BCE(x, BITS, reduction="none", **options)


def of_head(x: Tensor) -> Tensor:
    return xent.linear_cross_entropy(x, torch.eye(C), Y, reduction="none")


def log_p(x: Tensor) -> Tensor:
    return x.log_softmax(1)


def divergence(x: Tensor, **options) -> Tensor:
    return F.kl_div(log_p(x), Q, **{"reduction": "batchmean", **options})


def fairseq(x: Tensor) -> Tensor:
    """Label smoothing as sequence models write it, with padding."""
    labels, padding = IGNORED.clamp(min=0)[:, None], (IGNORED < 0)[:, None]
    costs = -log_p(x)
    picked, spread = costs.gather(1, labels), costs.sum(1, keepdim=True)
    kept = torch.tensor(4)
    return 0.9 * picked.masked_fill(padding, 0).sum() / kept + 0.1 * spread.masked_fill(padding, 0).sum() / (kept * C)


def documents(x: Tensor) -> Tensor:
    return (torch.zeros(3).index_add(0, DOCUMENTS, each(x)) / torch.tensor([2.0, 3.0, 1.0])).mean()


def a_policy(x: Tensor) -> Tensor:
    policy = torch.distributions.Categorical(logits=x)
    return -(policy.log_prob(Y) * STEPS).mean() - 0.01 * policy.entropy().mean()


# name → loss, a line of its receipt
SUMS = {
    "distillation": (lambda x: 0.5 * CE(x, Y) + 2 * F.kl_div((x / 2).log_softmax(1), Q, reduction="batchmean"),
                     "− entropy of the targets (a Kullback–Leibler divergence): −"),
    "two divergences": (lambda x: divergence(x) + divergence(x, reduction="sum") / 2,
                        "and − entropy of the targets (a Kullback–Leibler divergence)"),
    "targets that are logarithms": (lambda x: F.kl_div(log_p(x), Q.log(), reduction="batchmean", log_target=True),
                                    "cross_entropy · mean over 6 rows · 5 classes"),
    "a divergence and a norm": (lambda x: divergence(x) + 0.01 * (x**2).sum(), "cross_entropy · mean over 6 rows"),
    "a divergence masked": (lambda x: (divergence(x, reduction="none").sum(1) * MASK).sum() / MASK.sum(),
                            "cross_entropy · mean over 4 rows · 5 classes"),
    "a confidence penalty": (lambda x: CE(x, Y) + 0.1 * (x.softmax(1) * log_p(x)).sum(1).mean(),
                             "entropy of the predictions, Σ −p ln p: −0.1357"),
    "policy gradient": (a_policy, "entropy of the predictions, Σ −p ln p: −0.0136"),
    "a learned factor": (lambda x: LEARNED * CE(x, Y), "cross_entropy · 0.3 × mean over 6 rows · 5 classes"),
    "learned uncertainty": (lambda x: (-LEARNED).exp() * CE(x, Y) + LEARNED,
                            "and a tensor without a graph behind it: 0.3000"),
    "rows weighted": (lambda x: (each(x) * STEPS).mean(), "cross_entropy · mean over 6 rows · 5 classes"),
    "rows @ weights": (lambda x: each(x) @ STEPS, "cross_entropy · sum over 6 rows · 5 classes"),
    "hard examples": (lambda x: each(x).topk(3).values.mean(), "cross_entropy · mean over 3 rows · 5 classes"),
    "hard examples by hand": (lambda x: -log_p(x)[ROWS, Y].topk(3, largest=False).values.mean(),
                              "3 rows left out by a factor of 0"),
    "the worst row": (lambda x: each(x).max(), "cross_entropy · mean over 1 row · 5 classes"),
    "documents": (documents, "read nll_loss of log_softmax"),
    "masked": (lambda x: (each(x) * MASK).sum() / MASK.sum(),
               "ignore_index=-100 · 2 rows left out by a factor of 0"),
    "padding": (lambda x: CE(x, IGNORED), "ignore_index=-100 (2 rows) · no smoothing"),
    "masked elements": (lambda x: (each_bit(x) * MASK[:, None]).sum() / MASK.sum(),
                        "10 elements left out by a factor of 0"),
    "masked elements of a mean": (lambda x: (each_bit(x) * MASK[:, None]).sum() / 20,
                                  "binary_cross_entropy_with_logits · mean over 20 elements"),
    "weighted elements": (lambda x: (each_bit(x, pos_weight=STEPS[:C]) * STEPS[:, None]).mean(),
                          "binary_cross_entropy_with_logits · mean over 30 elements"),
    "masked rows of a head": (lambda x: (of_head(x) * MASK).sum() / MASK.sum(),
                              "Σ 8.0629 ÷ 4 rows = 2.0157 xent 2.0157 equal"),
    "weighted rows of a head": (lambda x: (of_head(x) * STEPS).mean(), "row weight"),
    "masked probabilities": (lambda x: (xent.cross_entropy(x, Q, reduction="none") * MASK).sum() / 4,
                             "cross_entropy · mean over 4 rows"),
    "fairseq": (fairseq, "label_smoothing=0.1"),
    "the other order": (lambda x: of_one_lse(x, x.logsumexp(1)), "and logsumexp²: 0.0344"),
    "p + ε": (lambda x: -(x.softmax(1)[ROWS, Y] + 1e-9).log().mean(), "cross_entropy · mean over 6 rows · 5 classes"),
    "p above ε": (lambda x: -x.softmax(1).gather(1, Y[:, None]).clamp(1e-9).log().mean(), "cross_entropy · mean over"),
    "one value in a dimension": (lambda x: CE(x, Y).unsqueeze(0), "Σ 13.0856 ÷ 6 rows = 2.1809 torch 2.1809 equal"),
    "a value for each sample": (lambda x: each(x).view(2, 3).mean(1), "cross_entropy · 2 values of 6 rows · 5 classes"),
    "a factor of 0": (lambda x: CE(x, Y) + 0.0 * CE(x * 2, Y), "cross_entropy · 0 × mean over 6 rows · 5 classes"),
    "one element": (lambda x: BCE(x[0, 0], BITS[0, 0]), "binary_cross_entropy_with_logits · mean over 1 element"),
    "elements, each": (lambda x: F.binary_cross_entropy(x.sigmoid(), BITS, reduction="none"), "each of 30 elements"),
}  # fmt: skip


def of_one_lse(x: Tensor, lse: Tensor) -> Tensor:
    return 0.01 * (lse**2).mean() + (lse - x[ROWS, Y]).mean()


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_is_said_to_be_what_it_is(name):
    make, line = SUMS[name]
    loss = make(logits())
    explanation = xent.explain(loss)
    words = " ".join(str(explanation).split())
    assert explanation.equality.holds, words
    assert explanation.is_sum, words
    assert not explanation.notes, words
    assert line in words
    added = sum(term.value for term in explanation.terms) + sum(rest.value for rest in explanation.rests)
    assert added == pytest.approx(float(loss.detach().sum()), **{"rel": 1e-5, "abs": 1e-6})
    assert_divided(words)
    for number, term in enumerate(explanation.terms):
        namespace = explanation.tensors(term=number)
        exec(explanation.code(term=number), namespace)
        assert float(namespace["loss"].sum()) == pytest.approx(term.value, rel=1e-6, abs=1e-9)


def assert_divided(words: str) -> None:
    """Every line of the receipt that divides a sum says what is so; four decimals are shown."""
    for total, divisor, factor, value in re.findall(r"Σ ([\d.]+) ÷ (\d+)[^=]*?(?:× ([\d.]+) )?= ([\d.]+)", words):
        assert float(total) / float(divisor) * float(factor or 1) == pytest.approx(float(value), abs=1e-3), words


ALONE = (
    "rows weighted", "hard examples", "the worst row", "documents", "masked", "a divergence masked",
    "targets that are logarithms", "masked elements", "weighted elements", "masked rows of a head",
    "weighted rows of a head", "masked probabilities", "fairseq", "p above ε", "a value for each sample",
)  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_the_gradient_of_the_rows_is_autograds(name):
    x = logits()
    loss = SUMS[name][0](x)
    (wanted,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    explanation = xent.explain(loss)
    (term,) = explanation.terms
    found, rows = torch.zeros(N, C, dtype=torch.float64), explanation.gradient().of_rows(torch.arange(term.num_rows))
    found.index_add_(0, term.row_ids, rows) if not term.is_binary else found.view(-1).copy_(rows)
    torch.testing.assert_close(found, wanted.double(), **NEAR)


FUNCTIONS = {
    "perplexity": (lambda x: CE(x, Y).exp(), "÷ 6 rows = 2.1809; the function of it 8.8546 torch 8.8546"),
    "square": (lambda x: CE(x, Y) ** 2, "cross_entropy · a function of the mean over 6 rows · 5 classes"),
    "log-sum-exp of rows": (lambda x: each(x).logsumexp(0), "cross_entropy · a function of 6 rows · 5 classes"),
    "rows below a bound": (lambda x: each(x).clamp(max=2.0).mean(), "a function of the mean over 2 rows"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_a_loss_is_no_sum(name):
    """No line says that a sum of rows, times a derivative, is the value: it is not."""
    make, line = FUNCTIONS[name]
    loss = make(logits())
    explanation = xent.explain(loss)
    words = " ".join(str(explanation).split())
    assert explanation.equality.holds
    assert not explanation.is_sum
    assert "no sum of its rows" in words
    assert line in words
    assert_divided(words)


def test_a_factor_that_is_held_is_said_to_be():
    x = logits()
    loss_N = each(x)
    explanation = xent.explain((loss_N * (1 - (-loss_N).exp()) ** 2).mean())
    assert explanation.equality.holds
    assert "held at its numbers: gradients are without its part" in " ".join(explanation.notes)


@pytest.mark.parametrize(
    ("made_in", "cast_to", "times"),
    [(torch.float32, torch.float64, 1), (torch.bfloat16, torch.float32, 1), (torch.float16, torch.float32, 65536),
     (torch.float16, torch.float64, 1 / 3)],
    ids=str,
)  # fmt: skip
def test_a_loss_that_was_cast_up_is_rounded_as_before(made_in, cast_to, times):
    explanation = xent.explain(CE(logits().to(made_in), Y).to(cast_to) * times)
    assert explanation.equality.holds, str(explanation)
    assert str(explanation.equality).endswith(f"ulp of {str(made_in).removeprefix('torch.')})")
    assert explanation.terms[0].factor == pytest.approx(times, rel=1e-6)
    wrong = xent.explain(CE(logits().to(made_in), Y).to(cast_to) + 0.1)
    assert not wrong.equality.explained


NOTHING_COUNTS = {
    "masked": lambda x: (each(x) * 0 * MASK).sum() / (0 * MASK).sum(),
    "by hand": lambda x: -(log_p(x)[ROWS, Y] * (0 * MASK)).sum() / (0 * MASK).sum(),
    "probabilities": lambda x: (CE(x, Q, reduction="none") * (0 * MASK)).sum() / (0 * MASK).sum(),
    "elements": lambda x: (each_bit(x) * 0 * MASK[:, None]).sum() / (0 * MASK).sum(),
    "a head": lambda x: (of_head(x) * (0 * MASK)).sum() / (0 * MASK).sum(),
}


@pytest.mark.parametrize("name", NOTHING_COUNTS)
def test_a_mask_that_leaves_out_every_row(name):
    explanation = xent.explain(NOTHING_COUNTS[name](logits()))
    words = str(explanation)
    assert explanation.equality.holds
    assert re.search(r"÷ 0 (rows|elements) = nan", words), words
    assert explanation.terms[0].value != explanation.terms[0].value  # NaN


def test_nothing_counts_and_a_normalizer_does():
    explanation = xent.explain(logits().detach(), torch.full((N,), -100), normalizer=13)
    assert "sum ÷ normalizer = 13" in str(explanation)
    assert explanation.terms[0].value == 0


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("target", [Y, Q], ids=["indices", "probabilities"])
def test_statistics_in_a_loss_are_made_again(backend, target):
    """Entropy and log-sum-exp of the rows, of both losses, beside the loss itself."""
    x = logits()
    with xent.backend(backend):
        for call in (lambda: xent.cross_entropy(x, target, stats=True),
                     lambda: xent.linear_cross_entropy(x, torch.eye(C), target, stats=True)):  # fmt: skip
            loss, stats = call()
            explanation = xent.explain(loss + 0.01 * stats.entropy.mean() + 0.001 * (stats.lse**2).mean())
            assert explanation.equality.explained, str(explanation)
            assert not explanation.notes, str(explanation)
            values = sorted(rest.value for rest in explanation.rests)
            wanted = sorted((0.01 * float(stats.entropy.detach().mean()),
                             0.001 * float((stats.lse.detach() ** 2).mean())))  # fmt: skip
            assert values == pytest.approx(wanted, rel=1e-5)


def test_log_probabilities_of_nll_loss_are_known_to_be_some():
    """With row weights, and from the arguments: it was said that the input was no log-probabilities."""
    x = logits()
    table = log_p(x)
    read = xent.explain(xent.nll_loss(table, Y, row_weight=MASK + 0.5))
    given = xent.explain(table.detach(), Y, kind="nll_loss", row_weight=MASK + 0.5)
    wanted = torch.autograd.grad(xent.nll_loss(log_p(x), Y, row_weight=MASK + 0.5), x)[0].double()
    for explanation in (read, given):
        torch.testing.assert_close(explanation.gradient().of_rows(ROWS), wanted, **NEAR)
    assert not xent.explain(x.detach(), Y, kind="nll_loss").terms[0].scores.normalised


def test_half_logits_with_float32_targets():
    """As a multi-label classifier of transformers in bfloat16: the loss is float32, its softplus was not."""
    explanation = xent.explain(BCE(logits().bfloat16(), BITS))
    assert str(explanation.equality).endswith("ulp of bfloat16)")


class Column:
    """As of a pandas frame whose rows were shuffled: its own index is not the number of the row."""

    def __getitem__(self, label):
        raise KeyError(label)

    def tolist(self):
        return ["ant", "bee", "cow", "dog", "eel"]


OTHER_NAMES = {
    "a dict": {0: "ant", 1: "bee", 2: "cow", 3: "dog", 4: "eel"},
    "a dict of a configuration": {"0": "ant", "1": "bee", "2": "cow", "3": "dog", "4": "eel"},
    "an array": np.array(["ant", "bee", "cow", "dog", "eel"]),
    "a column of a frame": Column(),
}


@pytest.mark.parametrize("names", OTHER_NAMES.values(), ids=OTHER_NAMES)
def test_names_in_other_forms(names):
    explanation = xent.explain(logits().detach()[:5], Y[:5], class_names=names, row_names=names)
    rows = explanation.rows("first", 5)
    assert [row["target"] for row in rows] == ["bee", "eel", "ant", "cow", "cow"]
    assert [row["name"] for row in rows] == ["ant", "bee", "cow", "dog", "eel"]


@pytest.mark.parametrize("names", ["abcde", 5, {"bee": 1}], ids=repr)
def test_names_that_are_none(names):
    with pytest.raises(xent.errors.OptionError):
        xent.explain(logits().detach(), Y, class_names=names)


@dataclass
class Output:
    loss: Tensor


@pytest.mark.parametrize(
    ("loss", "do"),
    [(Output(torch.ones(())), "pass its .loss"), ({"loss": torch.ones(())}, 'pass its ["loss"]'),
     ((torch.ones(()), None), "pass the loss alone"), (0.5, "leave out .item()")],
    ids=["output", "dict", "tuple", "item"],
)  # fmt: skip
def test_what_is_no_tensor_is_sent_to_its_loss(loss, do):
    with pytest.raises(xent.errors.DtypeError, match=re.escape(do)):
        xent.explain(loss)


@pytest.mark.parametrize("n", ["5", -1, 2.0, True])
def test_a_number_of_rows_is_one(n):
    explanation = xent.explain(logits().detach(), Y)
    for asked in (lambda: explanation.suspects(n), lambda: explanation.tokens(n=n), lambda: explanation.rows(n=n)):
        with pytest.raises(xent.errors.OptionError, match="it is a number of rows"):
            asked()


def test_one_wrong_row_of_many_is_not_called_rounding():
    """The bound is that of one row, not of all together: 4e-5 of 10,000 rows would be."""
    x = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.zeros(10_000, dtype=torch.int64)
    assert xent.explain(CE(x, y, reduction="none")).equality.allowed < 1e-5
    assert xent.explain(x.detach(), y, reduction="none").equality.allowed < 1e-5
