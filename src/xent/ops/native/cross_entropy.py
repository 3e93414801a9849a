"""Cross-entropy on the kernels, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import cross_entropy as kernel
from xent.ops.native import cross_entropy_total
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.native.saved_problem import problem_of, save, tensors_of, with_tensors
from xent.problem import Rows, true_class
from xent.reduction import reduce_rows
from xent.row_stats import RowStats

LOOKS_AT_TARGETS = True  # the kernels raise for class indices out of range


def rows(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows)."""
    loss, weight = _Rows.apply(*tensors_of(problem), problem.terms)
    shape = problem.logits.shape[:-1]
    return loss.view(shape), weight.view(shape)


def total(problem: Rows) -> Tensor:
    """The sum or mean over the rows."""
    if cross_entropy_total.fits(problem):
        return cross_entropy_total.total(problem)
    return reduce_rows(*rows(problem), problem.terms)


def rows_with_stats(problem: Rows) -> RowStats:
    """Loss, weight and statistics of every row."""
    outputs = _RowsWithStats.apply(*tensors_of(problem), problem.terms)
    loss, lse, entropy, weight, prediction = (value.view(problem.logits.shape[:-1]) for value in outputs)
    return RowStats(
        loss=loss,
        lse=lse,
        entropy=entropy,
        z_loss=problem.terms.z_part(weight, lse),
        prediction=prediction,
        correct=(prediction == true_class(problem)) & (prediction >= 0),  # an ignored row predicts −1
        weight=weight,
    )


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        logits, target, _, _, probabilities, terms = inputs
        problem = Rows(logits, target, terms, probabilities)
        values = kernel.forward(problem, with_stats=False)
        save(ctx, problem, values)
        if not _needs_weight(ctx):
            ctx.mark_non_differentiable(values["weight"])
        return values["loss"], values["weight"]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gradients):
            return (None,) * 6
        if not any(ctx.needs_input_grad[1:5]) and kernels_may_run(*gradients):
            problem, saved = problem_of(ctx)
            return kernel.gradient(problem, saved, gradients[0]), *(None,) * 5
        return *_of_reference(ctx, _rows_again, gradients), None


class _RowsWithStats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        logits, target, _, _, probabilities, terms = inputs
        problem = Rows(logits, target, terms, probabilities)
        values = kernel.forward(problem, with_stats=True)
        save(ctx, problem, values)
        ctx.mark_non_differentiable(values["prediction"], *(() if _needs_weight(ctx) else (values["weight"],)))
        return tuple(values[name] for name in ("loss", "lse", "entropy", "weight", "prediction"))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gradients):
            return (None,) * 6
        if not any(ctx.needs_input_grad[1:5]) and kernels_may_run(*gradients):
            problem, saved = problem_of(ctx)
            return kernel.gradient(problem, saved, *gradients[:3]), *(None,) * 5
        return *_of_reference(ctx, _stats_again, gradients[:4]), None


def _needs_weight(ctx: Any) -> bool:
    """Whether the weight of a row depends on a tensor that requires gradient."""
    return ctx.needs_input_grad[2] or ctx.needs_input_grad[3]


def _of_reference(
    ctx: Any, formula: Callable[[Rows], tuple[Tensor, ...]], upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        return formula(with_tensors(tensors, ctx.terms))

    return reference_gradient(of_tensors, ctx.saved_tensors[:5], ctx.needs_input_grad[:5], upstream)


def _rows_again(problem: Rows) -> tuple[Tensor, ...]:
    loss, weight = reference.cross_entropy.rows(problem)
    return loss.flatten(), weight.flatten()


def _stats_again(problem: Rows) -> tuple[Tensor, ...]:
    stats = reference.cross_entropy.rows_with_stats(problem)
    return tuple(value.flatten() for value in (stats.loss, stats.lse, stats.entropy, stats.weight))
