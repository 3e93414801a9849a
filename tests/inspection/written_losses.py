"""Losses as people write them, each a function of logits; what an explanation must say of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent

N, C = 6, 5
Y = torch.tensor([1, 4, 0, 2, 2, 3])
IGNORED = torch.tensor([1, -100, 0, 2, -100, 3])
Q = torch.randn(N, C, generator=torch.Generator().manual_seed(1)).softmax(1)
W = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.5])
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
ROWS = torch.arange(N)
BITS = (Q > 0.2).float()


@dataclass(frozen=True, eq=False)
class Written:
    """A loss.

    Attributes:
        name: its test id.
        loss: logits (N, C) → the loss.
        heading: how the receipt begins; None where several losses are in it.
        gradient: whether the factors of the rows are the whole derivative (not where a row's factor is a function too).
    """

    name: str
    loss: Callable[[Tensor], Tensor]
    heading: str | None
    gradient: bool = True

    def __str__(self) -> str:
        return self.name


def in_a_loop(x: Tensor) -> Tensor:
    losses, log_p = torch.zeros(N), x.log_softmax(-1)
    for i in range(N):
        losses[i] = -log_p[i, Y[i]]
    return losses.mean()


def added_up(x: Tensor) -> Tensor:
    total = 0.0
    for i in range(N):
        total = total + F.cross_entropy(x[i], Y[i])
    return total / N


def quotient(x: Tensor) -> Tensor:
    counts = x.exp()
    return counts / counts.sum(-1, keepdim=True)


def logs_of_quotients_subtracted(x: Tensor) -> Tensor:
    total = 0.0
    for i in range(N):
        total = total - torch.log((torch.exp(x[i]) / torch.exp(x[i]).sum())[Y[i]])
    return total / N


def step_by_step(x: Tensor) -> Tensor:
    """Every operation a line of its own, as in lectures on backpropagation."""
    counts = (x - x.max(1, keepdim=True).values).exp()
    probs = counts * counts.sum(1, keepdim=True) ** -1
    return -probs.log()[range(N), Y].mean()


def with_the_maximum_taken_out(x: Tensor) -> Tensor:
    m = x.max(-1)[0]
    return (m + (x - m[:, None]).exp().sum(-1).log() - x[ROWS, Y]).mean()


def over_time(x: Tensor) -> Tensor:
    return F.cross_entropy(x.view(2, 3, C).transpose(1, 2), Y.view(2, 3))


def shifted(x: Tensor) -> Tensor:
    """As transformers does: logits before the last, labels after the first, in float32."""
    logits, labels = x.view(2, 3, C).float(), Y.view(2, 3)
    return F.cross_entropy(logits[..., :-1, :].contiguous().view(-1, C), labels[..., 1:].contiguous().view(-1))


def focal(x: Tensor) -> Tensor:
    log_p = x.log_softmax(1)[ROWS, Y]
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def focal_by_class(x: Tensor) -> Tensor:
    """An exponent for each row: that of its class."""
    log_p = x.log_softmax(1)[ROWS, Y]
    return (-((1 - log_p.exp()) ** torch.linspace(0, 2, C)[Y]) * log_p).mean()


def under_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu"):
        return F.cross_entropy(F.linear(x, torch.eye(C)), Y)


MEAN = "cross_entropy · mean over 6 rows · 5 classes"
BINARY = "binary_cross_entropy_with_logits · mean over 30 elements"
WRITTEN = [
    Written("cross_entropy", lambda x: F.cross_entropy(x, Y), MEAN),
    Written("sum", lambda x: F.cross_entropy(x, Y, reduction="sum"), "cross_entropy · sum over 6 rows · 5 classes"),
    Written("ignored", lambda x: F.cross_entropy(x, IGNORED), "cross_entropy · mean over 4 rows · 5 classes"),
    Written("weighted", lambda x: F.cross_entropy(x, Y, W), "cross_entropy · sum ÷ Σ weight = 6.25 · 5 classes"),
    Written("smoothed", lambda x: F.cross_entropy(x, Y, label_smoothing=0.1), MEAN),
    Written("weighted, smoothed, ignored", lambda x: F.cross_entropy(x, IGNORED, W, label_smoothing=0.2),
            "cross_entropy · sum ÷ Σ weight = 3.75 · 5 classes"),
    Written("probabilities", lambda x: F.cross_entropy(x, Q), MEAN),
    Written("probabilities, weighted", lambda x: F.cross_entropy(x, Q, W), MEAN),
    Written("one row", lambda x: F.cross_entropy(x[0], Y[0]), "cross_entropy · mean over 1 row · 5 classes"),
    Written("over time", over_time, MEAN),
    Written("shifted", shifted, "cross_entropy · mean over 4 rows · 5 classes"),
    Written("each row", lambda x: F.cross_entropy(x, Y, reduction="none"),
            "cross_entropy · each of 6 rows · 5 classes"),
    Written("masked by hand", lambda x: (F.cross_entropy(x, Y, reduction="none") * MASK).sum() / MASK.sum(),
            "cross_entropy · mean over 4 rows · 5 classes"),
    Written("selected by a mask", lambda x: F.cross_entropy(x, Y, reduction="none")[MASK.bool()].mean(),
            "cross_entropy · mean over 4 rows · 5 classes"),
    Written("module", lambda x: nn.CrossEntropyLoss()(x, Y), MEAN),
    Written("nll of LogSoftmax", lambda x: nn.NLLLoss()(nn.LogSoftmax(1)(x), Y), MEAN),
    Written("pick of log_softmax", lambda x: -x.log_softmax(-1)[ROWS, Y].mean(), MEAN),
    Written("pick of a range", lambda x: -x.log_softmax(-1)[range(N), Y].mean(), MEAN),
    Written("gather", lambda x: -x.log_softmax(-1).gather(1, Y[:, None]).squeeze(1).mean(), MEAN),
    Written("gather of the negated", lambda x: (-x.log_softmax(-1)).gather(1, Y[:, None]).mean(), MEAN),
    Written("take_along_dim", lambda x: -torch.take_along_dim(x.log_softmax(-1), Y[:, None], 1).mean(), MEAN),
    Written("logsumexp − logit", lambda x: (x.logsumexp(1) - x[ROWS, Y]).mean(), MEAN),
    Written("means of both", lambda x: x.logsumexp(1).mean() - x[ROWS, Y].mean(), MEAN),
    Written("logsumexp, kept", lambda x: (x.logsumexp(1, keepdim=True) - x.gather(1, Y[:, None])).mean(), MEAN),
    Written("maximum taken out", with_the_maximum_taken_out, MEAN),
    Written("log of softmax", lambda x: -x.softmax(1).log()[ROWS, Y].mean(), MEAN),
    Written("log of a pick", lambda x: -x.softmax(1)[ROWS, Y].log().mean(), MEAN),
    Written("quotient of exps", lambda x: -(x.exp() / x.exp().sum(-1, keepdim=True)).log()[ROWS, Y].mean(), MEAN),
    Written("pick of a quotient", lambda x: -quotient(x)[ROWS, Y].log().mean(), MEAN),
    Written("gather of a quotient", lambda x: -quotient(x).gather(1, Y[:, None]).log().mean(), MEAN),
    Written("pick of one quotient", lambda x: -(x[0].exp() / x[0].exp().sum())[Y[0]].log(),
            "cross_entropy · mean over 1 row · 5 classes"),
    Written("pick of a stable quotient", lambda x: -quotient(x - x.max(1, keepdim=True)[0])[ROWS, Y].log().mean(),
            MEAN),
    Written("quotient of a pick", lambda x: -(x.exp()[ROWS, Y] / x.exp().sum(1)).log().mean(), MEAN),
    Written("quotients in a loop", logs_of_quotients_subtracted, MEAN),
    Written("softmax step by step", step_by_step, MEAN),
    Written("one-hot softmax", lambda x: -(x.softmax(1) * F.one_hot(Y, C)).sum(1).log().mean(), MEAN),
    Written("one-hot quotient", lambda x: -(F.one_hot(Y, C) * quotient(x)).sum(-1, keepdim=True).log().mean(), MEAN),
    Written("x − ln Σ exp", lambda x: -(x - x.exp().sum(-1, keepdim=True).log())[ROWS, Y].mean(), MEAN),
    Written("x − logsumexp", lambda x: -(x - x.logsumexp(-1, keepdim=True))[ROWS, Y].mean(), MEAN),
    Written("one-hot", lambda x: -(F.one_hot(Y, C) * x.log_softmax(1)).sum(1).mean(), MEAN),
    Written("one-hot, mean over classes too", lambda x: -(F.one_hot(Y, C) * x.log_softmax(1)).mean(),
            "cross_entropy · 0.2 × mean over 6 rows · 5 classes"),
    Written("in a loop", in_a_loop, MEAN),
    Written("added up", added_up, MEAN),
    Written("stacked", lambda x: torch.stack([F.cross_entropy(x[i], Y[i]) for i in range(N)]).mean(), MEAN),
    Written("kl_div", lambda x: F.kl_div(x.log_softmax(1), Q, reduction="batchmean"), MEAN),
    Written("halved", lambda x: F.cross_entropy(x, Y) * 0.5, "cross_entropy · 0.5 × mean over 6 rows · 5 classes"),
    Written("over 4 micro-batches", lambda x: F.cross_entropy(x, Y) / 4,
            "cross_entropy · 0.25 × mean over 6 rows · 5 classes"),
    Written("sum over the batch", lambda x: F.cross_entropy(x, Y, reduction="sum") / 6, MEAN),
    Written("under autocast", under_autocast, MEAN, gradient=False),
    Written("focal", focal, None, gradient=False),
    Written("focal by class", focal_by_class, None, gradient=False),
    Written("with powers of columns", lambda x: F.cross_entropy(x, Y) + (x ** torch.full((C,), 2.0)).sum(), MEAN,
            gradient=False),
    Written("exp", lambda x: F.cross_entropy(x, Y).exp(), None),
    Written("with a squared norm", lambda x: F.cross_entropy(x, Y) + 0.01 * (x**2).sum(), MEAN, gradient=False),
    Written("bce with logits", lambda x: F.binary_cross_entropy_with_logits(x, BITS), BINARY),
    Written("bce with logits, weights", lambda x: F.binary_cross_entropy_with_logits(x, BITS, W, pos_weight=W), BINARY),
    Written("bce with logits, soft", lambda x: nn.BCEWithLogitsLoss()(x, Q), BINARY),
    Written("bce", lambda x: nn.BCELoss()(x.sigmoid(), BITS), "binary_cross_entropy · mean over 30 elements"),
    Written("bce by hand", lambda x: -(BITS * x.sigmoid().log() + (1 - BITS) * (1 - x.sigmoid()).log()).mean(),
            "binary_cross_entropy · mean over 30 elements"),
    Written("bce of logsigmoid", lambda x: -(Q * F.logsigmoid(x) + (1 - Q) * F.logsigmoid(-x)).mean(), BINARY),
    Written("F.linear_cross_entropy", lambda x: F.linear_cross_entropy(x, torch.eye(C), Y), MEAN),
    Written("two losses", lambda x: F.cross_entropy(x, Y) + 0.1 * F.cross_entropy(x * 2, Q), None, gradient=False),
]  # fmt: skip

OF_XENT = [
    Written("xent.cross_entropy", lambda x: xent.cross_entropy(x, Y), MEAN),
    Written("xent, weighted", lambda x: xent.cross_entropy(x, Y, W),
            "cross_entropy · sum ÷ Σ weight = 6.25 · 5 classes"),
    Written("xent, smoothed, ignored", lambda x: xent.cross_entropy(x, IGNORED, label_smoothing=0.1),
            "cross_entropy · mean over 4 rows · 5 classes"),
    Written("xent, probabilities", lambda x: xent.cross_entropy(x, Q), MEAN),
    Written("xent, over time", lambda x: xent.cross_entropy(x.view(2, 3, C), Y.view(2, 3), dim=-1), MEAN),
    Written("xent, next token", lambda x: xent.cross_entropy(x.view(2, 3, C), Y.view(2, 3), dim=-1, shift=1),
            "cross_entropy · mean over 4 rows · 5 classes"),
    Written("xent, row weight", lambda x: xent.cross_entropy(x, Y, row_weight=MASK + 0.5),
            "cross_entropy · sum ÷ Σ weight = 7 · 5 classes"),
    Written("xent, each row", lambda x: xent.cross_entropy(x, Y, reduction="none"),
            "cross_entropy · each of 6 rows · 5 classes"),
    Written("xent, normalizer", lambda x: xent.cross_entropy(x, Y, normalizer=13),
            "cross_entropy · sum ÷ 13 · 5 classes"),
    Written("xent.nll_loss", lambda x: xent.nll_loss(xent.log_softmax(x, 1), Y), MEAN),
    Written("xent.logsumexp", lambda x: (xent.logsumexp(x, 1) - x[ROWS, Y]).mean(), MEAN),
    Written("xent.token_logprobs", lambda x: -xent.token_logprobs(x, Y).mean(), MEAN),
    Written("xent, bce", lambda x: xent.binary_cross_entropy(x.sigmoid(), BITS),
            "binary_cross_entropy · mean over 30 elements"),
    Written("xent, bce with logits", lambda x: xent.binary_cross_entropy_with_logits(x, BITS), BINARY),
    Written("xent.linear_cross_entropy", lambda x: xent.linear_cross_entropy(x, torch.eye(C), Y), MEAN),
    Written("xent.linear, each row", lambda x: xent.linear_cross_entropy(x, torch.eye(C), Y, reduction="none"),
            "cross_entropy · each of 6 rows · 5 classes"),
]  # fmt: skip
OPTIONS = [
    {"weight": W, "label_smoothing": 0.1, "z_loss": 1e-2},
    {"softcap": 3.0, "logit_scale": 0.5, "row_weight": MASK + 0.5},
    {"softcap": 3.0, "z_loss": 1e-2, "weight": W, "ignore_index": 2},
    {"label_smoothing": 1.0, "reduction": "sum"},
]


def logits(seed: int = 0) -> Tensor:
    """(N, C), a leaf."""
    return torch.randn(N, C, generator=torch.Generator().manual_seed(seed)).requires_grad_()
