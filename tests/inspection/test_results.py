"""Landmarks, rows, classes, suspects and tokens against numbers made in another way."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.inspection.written_losses import IGNORED, Q, W, Y, logits
from xent.errors import DtypeError, NotExplained, OptionError, ShapeError

CALLS = {
    "plain": (Y, {}),
    "ignored": (IGNORED, {}),
    "weighted": (IGNORED, {"weight": W}),
    "smoothed": (Y, {"label_smoothing": 0.2}),
    "weighted, smoothed": (IGNORED, {"weight": W, "label_smoothing": 0.2}),
    "probabilities": (Q, {}),
    "probabilities, weighted, smoothed": (Q, {"weight": W, "label_smoothing": 0.3}),
    "sum": (Y, {"reduction": "sum"}),
}


def least_loss(target, options, rows: int) -> float:
    """The least value that `rows` free rows of logits reach: all of them, or one for all; by Newton's method."""
    x = torch.zeros(rows, 5, dtype=torch.float64, requires_grad=True)
    options = {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    target = target.double() if target.is_floating_point() else target
    optimizer = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(x.expand(6, 5), target, **options)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(closure().detach())


@pytest.mark.parametrize("name", CALLS)
def test_landmarks_are_the_least_losses(name):
    """Floor and label prior are what an optimizer finds, in the units of the loss; a plain floor, 0, is only neared."""
    target, options = CALLS[name]
    landmarks = xent.explain(F.cross_entropy(logits(), target, **options)).landmarks
    assert landmarks.floor * landmarks.mass == pytest.approx(least_loss(target, options, 6), abs=1e-3)
    assert landmarks.label_prior * landmarks.mass == pytest.approx(least_loss(target, options, 1), abs=1e-6)
    assert landmarks.uniform == math.log(5)
    zeros = torch.zeros(6, 5)
    assert landmarks.uniform * landmarks.mass == pytest.approx(
        float(F.cross_entropy(zeros, target, **options)), rel=1e-6
    )


def test_bits_and_perplexity():
    explanation = xent.explain(F.cross_entropy(logits(), Y))
    assert explanation.bits == explanation.nats / math.log(2)
    assert explanation.perplexity == math.exp(explanation.nats)


def test_a_confident_labeler_of_binary_elements():
    x = torch.tensor([[2.0, -1.0], [0.0, 3.0]], requires_grad=True)
    explanation = xent.explain(F.binary_cross_entropy_with_logits(x, torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    assert explanation.landmarks.label_prior == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    record = explanation.rows("worst", 1)[0]
    assert (record["position"], record["target"]) == ("(1, 1)", "0")
    assert record["p"] == pytest.approx(float(torch.sigmoid(torch.tensor(3.0))))
    assert record["gradient"] == pytest.approx(record["p"] / 4)


def test_rows_in_every_order():
    explanation = xent.explain(F.cross_entropy(logits(), IGNORED))
    cost = F.cross_entropy(logits(), IGNORED, reduction="none").detach()
    counted = [0, 2, 3, 5]
    by_cost = sorted(counted, key=lambda row: -float(cost[row]))
    assert [record["row"] for record in explanation.rows("worst", 4)] == by_cost
    assert [record["row"] for record in explanation.rows("best", 4)] == by_cost[::-1]
    assert [record["row"] for record in explanation.rows("first", 3)] == [0, 1, 2]
    drawn = [record["row"] for record in explanation.rows("random", 3, seed=1)]
    assert drawn == [record["row"] for record in explanation.rows("random", 3, seed=1)]
    assert sum(record["share"] for record in explanation.rows("first", 6)) == pytest.approx(1)
    with pytest.raises(OptionError, match="order='last'"):
        explanation.rows("last")
    with pytest.raises(OptionError, match="this value has 1 losses in it"):
        explanation.rows(term=1)


def test_gradients_sum_to_zero_and_shares_to_one():
    gradient = xent.explain(F.cross_entropy(logits(), IGNORED, W, label_smoothing=0.1)).gradient()
    assert gradient.largest_row_sum < 1e-7  # p comes from ln p in float32
    assert sum(record["share"] for record in gradient.by_class()) == pytest.approx(1)
    assert sum(record["share"] for record in gradient.by_row(6)) == pytest.approx(1)
    assert sum(record["size"] for record in gradient.by_token(5)) == pytest.approx(gradient.total)


def test_by_class_and_suspects():
    x = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [2.0, 0.0]], requires_grad=True)
    explanation = xent.explain(F.cross_entropy(x, torch.tensor([0, 1, 1, 0])), class_names=["no", "yes"])
    lines = {record["class"]: record for record in explanation.by_class()}
    p = x.detach().softmax(1)
    assert (lines["yes"]["rows"], lines["yes"]["accuracy"]) == (2, 0.5)
    assert lines["yes"]["confidence"] == pytest.approx(float(p[1:3].max(1).values.mean()))
    assert lines["all"]["accuracy"] == 0.75
    assert lines["yes"]["share"] + lines["no"]["share"] == pytest.approx(1)
    first = explanation.suspects(1)[0]
    assert (first["row"], first["label"], first["other"]) == (1, "yes", "no")
    assert first["margin"] == pytest.approx(float(p[1, 1] - p[1, 0]))


WORDS = ["<pad>", "the", " cat", "\n", "sat"]


class Tokenizer:
    pad_token_id, eos_token_id = 0, 3

    def decode(self, ids):
        return "".join(WORDS[i] for i in ids)


@pytest.mark.parametrize(
    "tokenizer", [Tokenizer(), WORDS, {w: i for i, w in enumerate(WORDS)}], ids=["decode", "list", "dict"]
)
def test_the_token_ledger(tokenizer):
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[2, 4, 3], [1, 2, -100]])
    loss = F.cross_entropy(x.view(-1, 5), labels.view(-1))
    ledger = xent.explain(loss).tokens(tokenizer, [[1, 2, 4], [1, 1, 2]])
    nats = F.cross_entropy(x.detach().view(-1, 5).double(), labels.view(-1), reduction="none")
    assert ledger[4]["mean"] == pytest.approx(float(nats[:5].mean()), rel=1e-6)
    assert ledger[4]["perplexity"] == pytest.approx(math.exp(float(nats[:5].mean())), rel=1e-6)
    assert ledger[4]["mean"] == pytest.approx(float(loss.detach()), rel=1e-6)
    rank = 1 + int((x.detach().view(-1, 5)[1] > x.detach().view(-1, 5)[1, 4]).sum())
    assert (ledger[1]["rank"], ledger[1]["target"], ledger[1]["context"]) == (rank, "sat", "the ␣cat")
    assert ledger[2]["target"] == "⏎"
    assert ledger[5]["mark"] == "ignored"
    assert "nats" not in ledger[5]
    if isinstance(tokenizer, Tokenizer):
        assert ledger[2]["mark"] == "eos"


def test_tokens_that_do_not_fit():
    explanation = xent.explain(F.cross_entropy(logits(), Y))
    with pytest.raises(ShapeError, match="input_ids has shape"):
        explanation.tokens(None, [[1, 2], [3, 4]])
    with pytest.raises(DtypeError, match="has decode or id_to_token"):
        explanation.tokens(7)
    with pytest.raises(OptionError, match="tokens are class indices"):
        xent.explain(F.cross_entropy(logits(), Q)).tokens()


def freed():
    loss = F.cross_entropy(logits(), Y)
    loss.backward()
    return loss


def edited():
    log_p = (logits() * 1).log_softmax(1)
    loss = -log_p[torch.arange(6), Y].mean()
    log_p.mul_(2)
    return loss


def compiled():
    return torch.compile(lambda x: F.cross_entropy(x, Y), backend="aot_eager")(logits())


def overflowed():
    x = (1000 * logits().detach()).requires_grad_()
    return -(x.exp() / x.exp().sum(1, keepdim=True)).log()[torch.arange(6), Y].mean()


MISTAKES = {
    "compiled": (compiled, NotExplained, "compiled: one node, whatever is in it"),
    "overflowed by hand": (overflowed, NotExplained, "exp ends at 88.7 in float32"),
    "a number": (lambda: 0.7, DtypeError, "leave out .item"),
    "integers": (lambda: torch.tensor(3), DtypeError, "a loss is floating point"),
    "no graph": (lambda: F.cross_entropy(logits().detach(), Y), NotExplained, "no_grad, detached"),
    "a leaf": (lambda: torch.zeros((), requires_grad=True), NotExplained, "it is a leaf"),
    "freed": (freed, NotExplained, "backward.. freed the graph"),
    "edited": (edited, NotExplained, "changed in place"),
    "no cross-entropy": (lambda: F.mse_loss(logits(), torch.zeros(6, 5)), NotExplained, "MseLossBackward0"),
    "no loss": (lambda: logits().sum(), NotExplained, "no cross-entropy was found"),
    "unknown": (lambda: torch.linalg.det(logits()[:5]), NotExplained, "LinalgDetBackward0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_read_is_said(name):
    make, error, words = MISTAKES[name]
    with pytest.raises(error, match=words):
        xent.explain(make())


def test_arguments_that_do_not_fit():
    with pytest.raises(NotExplained, match="weight without a target"):
        xent.explain(F.cross_entropy(logits(), Y), weight=W)
    with pytest.raises(OptionError, match="kind='hinge'"):
        xent.explain(logits(), Y, kind="hinge")
    with pytest.raises(OptionError, match="pos_weight for kind='cross_entropy'"):
        xent.explain(logits(), Y, pos_weight=W)
    with pytest.raises(OptionError, match=r"suffix '.txt'"):
        xent.explain(logits(), Y).save("x.txt")


def test_nll_loss_of_what_is_no_log_probability():
    explanation = xent.explain(F.nll_loss(logits(), Y))
    assert explanation.equality.holds
    assert explanation.terms[0].kind == "nll_loss"
    assert "not log-probabilities" in str(explanation)
    with pytest.raises(NotExplained, match="p − y needs p"):
        explanation.gradient()
