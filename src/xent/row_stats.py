"""`RowStats` and `TokenLogprobs`: what a loss, and a score, know about each of their rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class RowStats(NamedTuple):
    """Per-row values of a loss, each of the shape of the rows (the shape of hard targets).

    Statistics are float32 for half inputs and in the input's dtype otherwise. An ignored row has loss, lse, entropy,
    z_loss and weight 0, prediction −1 and correct False, so that sums over rows are sums over the counted rows.

    Attributes:
        loss: the row's loss, all weights and the z-term included, in nats; their sum over `weight.sum()` is the mean.
        lse: logsumexp of the (scaled, capped) logits, ±inf where it is that though the loss is NaN; differentiable.
        entropy: entropy of the predicted distribution in nats; differentiable.
        z_loss: the part of `loss` that is the z-term.
        prediction: the most likely class, int64; the first NaN, if there is one.
        correct: prediction is the target (the most likely class of a probability target), bool.
        weight: what the row adds to the mean's denominator.
    """

    loss: Tensor
    lse: Tensor
    entropy: Tensor
    z_loss: Tensor
    prediction: Tensor
    correct: Tensor
    weight: Tensor


class TokenLogprobs(NamedTuple):
    """Log-probabilities of target tokens and of their alternatives, in nats; all but the indices differentiable.

    float32 for half inputs and in the input's dtype otherwise. An ignored row has 0 everywhere and indices −1.

    Attributes:
        logprob: ln p(target), of the shape of the rows.
        entropy: entropy of the predicted distribution, of the same shape; None where it was not asked for.
        top_indices: the k most likely classes, (*rows, k) int64, the likeliest first, equals in the order of their
            class; None where k is 0.
        top_logprobs: their log-probabilities, (*rows, k); None where k is 0.
    """

    logprob: Tensor
    entropy: Tensor | None
    top_indices: Tensor | None
    top_logprobs: Tensor | None
