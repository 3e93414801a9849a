"""The sum or mean of cross-entropy over the rows, differentiable with respect to the logits.

Its upstream gradient is one number, and known but for a factor: where the kernels make both passes in one, the
gradient is made in the forward pass, for an upstream of 1, and `backward` hands it out: for 1 as it is, for another
power of two times that. Any other upstream, a second backward, and every other problem take the backward pass from the
saved log-sum-exp. The bits are the same either way, but for gradients below the normal numbers of their dtype (1e-38,
in float64 1e-308), which were rounded before the factor. float16's begin at 6e-5, where gradients of a mean lie, and a
loss scaler is there to lift them: its gradient is handed out for an upstream of 1 alone.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import cross_entropy as kernel
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.native.saved_problem import problem_of, save
from xent.problem import Rows
from xent.reduction import reduce_rows
from xent.terms import LossTerms


def fits(problem: Rows) -> bool:
    """Whether nothing but the logits takes part in the derivatives."""
    terms = problem.terms
    others = (problem.target, problem.probabilities, terms.weight, terms.row_weight, terms.normalizer)
    return not torch.is_grad_enabled() or not any(isinstance(x, Tensor) and x.requires_grad for x in others)


def total(problem: Rows) -> Tensor:
    """The reduced loss of a problem that fits."""
    if torch.is_grad_enabled() and problem.logits.requires_grad:
        return _Total.apply(problem.logits, problem)
    return _value(kernel.forward(problem, with_stats=False), problem.terms)[0]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        problem: Rows = inputs[1]
        terms = problem.terms
        known = 1.0 if terms.reduction == "sum" else _number(terms.normalizer)
        both = kernel.forward_and_gradient(problem, known)
        if both is None:
            values = kernel.forward(problem, with_stats=False)
            loss, ctx.denominator = _value(values, terms)
            ctx.gradient = None
        else:
            values, ctx.denominator, ctx.gradient = both
            loss = _divided(values["loss"], ctx.denominator)
        save(ctx, problem, values)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        if g is None:
            return None, None
        problem, saved = problem_of(ctx)
        if not kernels_may_run(g):
            return *_of_reference(problem, g), None
        made, ctx.gradient = ctx.gradient, None  # handed out once: autograd may keep it as it is
        factor = float(g)
        if made is not None and _scales_exactly(factor, made.dtype):
            return made if factor == 1 else made.mul_(factor), None
        del made  # before its successor takes as much memory
        return kernel.gradient(problem, saved, kernel.upstream_of_rows(g, ctx.denominator, problem)), None


def _scales_exactly(factor: float, dtype: torch.dtype) -> bool:
    """Whether the factor is a power of two: 1, that of a loss scaler, one over the number of micro-batches."""
    return factor == 1 or (math.frexp(factor)[0] == 0.5 and dtype != torch.float16)


def _value(values: dict[str, Tensor], terms: LossTerms) -> tuple[Tensor, float]:
    """The loss, and what the sum was divided by."""
    denominator = 1.0
    if terms.reduction == "mean":
        known = _number(terms.normalizer)
        denominator = kernel.sum_of_rows(values["weight"]) if known is None else known
    return _divided(values["loss"], denominator), denominator


def _divided(loss: Tensor, denominator: float) -> Tensor:
    """Sum over the denominator, which may be 0, rounded once."""
    return (torch.tensor(kernel.sum_of_rows(loss), dtype=torch.float64) / denominator).to(loss.dtype)


def _number(normalizer: float | Tensor | None) -> float | None:
    return None if normalizer is None else float(normalizer)


def _of_reference(problem: Rows, upstream: Tensor) -> tuple[Tensor | None, ...]:
    return reference_gradient(partial(_total_again, problem), (problem.logits,), (True,), (upstream,))


def _total_again(problem: Rows, *tensors: Any) -> tuple[Tensor]:
    again = Rows(tensors[0], problem.target, problem.terms, problem.probabilities)
    return (reduce_rows(*reference.cross_entropy.rows(again), again.terms),)
