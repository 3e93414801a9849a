"""The truth of the losses without rows: binary cross-entropies, log_softmax and logsumexp, with their gradients.

As in tests/oracle.py: 50 digits, equations only, and every figure with the magnitude that its rounding is relative to.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tests.oracle import PRECISE, Figure, Truth, arithmetic_for

FLOOR_OF_LOG = -100  # torch's bound of the logarithms of binary_cross_entropy
FLOOR_OF_VARIANCE = float(np.float32(1e-12))  # torch's bound of x(1 − x) in its gradient, which it holds as a float


def _reduced(loss, size, options: dict, count: int):
    """Figure of the loss, and d loss / d element."""
    if options.get("reduction", "mean") == "none":
        return Figure(loss, size), 1
    if options.get("reduction", "mean") == "sum":
        return Figure(loss.sum(), size.sum()), 1
    below = float(options["normalizer"]) if options.get("normalizer") is not None else count
    if below == 0:
        return Figure(np.nan, 0), np.nan
    return Figure(loss.sum() / PRECISE.number(below), 2 * size.sum() / below), 1 / PRECISE.number(below)


def _arrays(*tensors: Tensor | None):
    shape = tensors[0].shape
    one = PRECISE.zeros(()) + 1
    return [np.broadcast_to(one if t is None else PRECISE.array(t), shape) for t in tensors]


def binary_cross_entropy(x: Tensor, t: Tensor, weight: Tensor | None = None, **options) -> Truth:
    """−w·(t·ln x + (1 − t)·ln(1 − x)), each logarithm at least −100."""
    (p, q, w), floor = _arrays(x, t, weight), PRECISE.number(FLOOR_OF_LOG)
    log_p, log_rest = (np.where(a == 0, floor, PRECISE.log(np.where(a == 0, 1, a))) for a in (p, 1 - p))
    log_p, log_rest = (np.where(a < floor, floor, a) for a in (log_p, log_rest))
    loss = -w * (q * log_p + (1 - q) * log_rest)
    size = abs(w) * (abs(q) * (abs(log_p) + 1) + abs(1 - q) * (abs(log_rest) + 1))
    truth = Truth()
    truth.figures["loss"], factor = _reduced(loss, size, options, p.size)
    variance = p * (1 - p)
    variance = np.where(variance < FLOOR_OF_VARIANCE, PRECISE.number(FLOOR_OF_VARIANCE), variance)
    truth.figures["grad.input"] = Figure(
        factor * w * (p - q) / variance, 2 * abs(factor * w) * (abs(p) + abs(q)) / variance
    )
    truth.figures["grad.target"] = Figure(
        factor * w * (log_rest - log_p), abs(factor * w) * (abs(log_p) + abs(log_rest) + 2)
    )
    return truth


def binary_cross_entropy_with_logits(
    x: Tensor, t: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, **options
) -> Truth:
    """−w·(ω·t·ln σ(x) + (1 − t)·ln(1 − σ(x)))."""
    z, q, w, positive = _arrays(x, t, weight, pos_weight)
    log_p, log_rest = -_softplus(-z), -_softplus(z)
    p, rest = PRECISE.exp(log_p), PRECISE.exp(log_rest)
    loss = -w * (positive * q * log_p + (1 - q) * log_rest)
    # ln(1 − σ(x)) = ln σ(x) − x is how it is computed: x itself is among the terms
    size = abs(w) * (abs(positive * q) + abs(1 - q)) * (abs(z) + abs(log_p) + 1)
    truth = Truth()
    truth.figures["loss"], factor = _reduced(loss, size, options, z.size)
    truth.figures["grad.input"] = Figure(
        factor * w * ((1 - q) * p - positive * q * rest), 4 * abs(factor * w) * (abs(1 - q) + abs(positive * q))
    )
    truth.figures["grad.target"] = Figure(
        factor * w * (log_rest - positive * log_p), abs(factor * w) * (1 + abs(positive)) * (abs(z) + abs(log_p) + 1)
    )
    return truth


def _softplus(z):
    return np.where(z > 0, z, 0) + PRECISE.log(1 + PRECISE.exp(-abs(z)))


@np.errstate(all="ignore")
def log_softmax(x: Tensor, dim: int, grad_output: Tensor) -> Truth:
    """x − logsumexp(x), and g − p·Σ g."""
    value, upstream, numbers = _rows(x, dim), _rows(grad_output, dim), arithmetic_for(x.numel())
    best = value.max(-1, keepdims=True) if value.size else value
    lse = best + numbers.log(numbers.exp(value - best).sum(-1, keepdims=True)) if value.size else value
    log_p = value - lse
    p, distance = numbers.exp(log_p), _finite(abs(value - best)) + _finite(abs(lse - best))
    gradient = upstream - p * upstream.sum(-1, keepdims=True)
    size = abs(upstream) + p * (2 + distance) * abs(upstream).sum(-1, keepdims=True)
    truth = Truth()
    truth.figures["loss"] = _back(log_p, distance, x, dim)
    truth.figures["grad.input"] = _back(gradient, size, x, dim)
    return truth


@np.errstate(all="ignore")
def logsumexp(x: Tensor, dim: int, grad_output: Tensor) -> Truth:
    """m + ln Σ exp(x − m), and p·g."""
    value, numbers = _rows(x, dim), arithmetic_for(x.numel())
    best = value.max(-1, keepdims=True)
    known = abs(best) != np.inf  # an infinite maximum is the result
    shifted = value - np.where(known, best, 0)
    lse = np.where(known, best + numbers.log(numbers.exp(shifted).sum(-1, keepdims=True)), best)
    p, upstream = numbers.exp(value - lse), numbers.array(grad_output)[..., None]
    distance = _finite(abs(value - best)) + _finite(abs(lse - best))
    truth = Truth()
    truth.figures["loss"] = Figure(lse[..., 0], (_finite(abs(best)) + _finite(abs(lse - best)))[..., 0])
    truth.figures["grad.input"] = _back(p * upstream, p * abs(upstream) * (2 + distance), x, dim)
    return truth


def _rows(x: Tensor, dim: int):
    return np.moveaxis(arithmetic_for(x.numel()).array(x), dim, -1)


def _back(value, size, x: Tensor, dim: int) -> Figure:
    return Figure(np.moveaxis(value, -1, dim), np.moveaxis(size, -1, dim))


def _finite(value):
    return np.where((value != value) | (value == np.inf), 0, value)
