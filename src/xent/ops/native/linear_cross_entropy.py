"""Linear + cross-entropy on the kernels, differentiable.

The sum and the mean know their upstream gradient up to one factor, so that gradients are made in the forward pass,
where the logits are; `backward` hands them out, times the factor. A second backward, and every per-row use, makes the
logits again, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import linear_cross_entropy as kernel
from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_rows import row_weights
from xent.head import HeadRows
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.reduction import as_denominator, reduce_rows, sum_of_rows
from xent.row_stats import RowStats
from xent.terms import LossTerms


def total(problem: HeadRows) -> Tensor:
    """The sum or mean over the rows."""
    needs = _needs(problem)
    others = any(tensor is not None and tensor.requires_grad for tensor in _tensors(problem)[3:])
    if not torch.is_grad_enabled() or others or not any((needs.hidden, needs.weight, needs.bias)):
        return reduce_rows(*rows(problem), problem.terms)
    return _Total.apply(*_tensors(problem), problem)


def rows(problem: HeadRows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows, *extra)."""
    loss, _, _, weight, _ = _Rows.apply(*_tensors(problem), problem, False)
    return loss.view(problem.row_shape), weight.view(problem.row_shape)


def rows_with_stats(problem: HeadRows) -> RowStats:
    """Loss, weight and statistics of every row."""
    outputs = _Rows.apply(*_tensors(problem), problem, True)
    loss, lse, entropy, weight, prediction = (value.view(problem.row_shape) for value in outputs)
    true_class = problem.target if problem.is_hard else problem.target.argmax(-1)
    return RowStats(
        loss=loss,
        lse=lse,
        entropy=entropy,
        z_loss=problem.terms.z_part(weight, lse),
        prediction=prediction,
        correct=(prediction == true_class) & (prediction >= 0),  # an ignored row predicts −1
        weight=weight,
    )


def plan_of_shapes(hidden: Tensor, weight: Tensor, max_memory: int | None) -> Plan:
    """How values and gradients of a call with these tensors would be cut, if no row is ignored."""
    rows = hidden.numel() // max(hidden.shape[-1], 1)
    target = torch.zeros(rows, dtype=torch.int64)
    head = HeadRows(hidden.reshape(rows, -1), weight.flatten(0, -2), None, (), target, LossTerms(), max_memory)
    return kernel.plan_of(head, kernel.Needs(hidden=True, weight=True, bias=False))


def _tensors(problem: HeadRows) -> tuple[Tensor | None, ...]:
    terms = problem.terms
    return problem.hidden, problem.weight, problem.bias, problem.target, terms.weight, terms.row_weight


def _needs(problem: HeadRows) -> kernel.Needs:
    bias = problem.bias
    return kernel.Needs(
        problem.hidden.requires_grad, problem.weight.requires_grad, bias is not None and bias.requires_grad
    )


def _save(ctx: Any, problem: HeadRows) -> None:
    terms = replace(problem.terms, weight=None, row_weight=None, normalizer=None)
    ctx.problem = replace(
        problem, hidden=torch.empty(0), weight=torch.empty(0), bias=None, target=torch.empty(0), terms=terms
    )
    ctx.save_for_backward(*_tensors(problem))


def _restored(ctx: Any) -> HeadRows:
    hidden, weight, bias, target, class_weight, row_weight = ctx.saved_tensors
    terms: LossTerms = replace(ctx.problem.terms, weight=class_weight, row_weight=row_weight)
    return replace(ctx.problem, hidden=hidden, weight=weight, bias=bias, target=target, terms=terms)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        problem, with_stats = inputs[-2:]
        values = kernel.forward(problem, with_stats=with_stats)
        ctx.set_materialize_grads(False)
        ctx.values = values
        _save(ctx, problem)
        lse = values.exact_lse.to(values.loss.dtype)
        entropy = torch.zeros_like(lse) if values.entropy is None else values.entropy
        prediction = torch.full_like(lse, -1) if values.prediction is None else values.prediction
        weighed = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]  # the weight of a row depends on these
        ctx.mark_non_differentiable(prediction, *(() if weighed else (values.weight,)))
        return values.loss, lse, entropy, values.weight, prediction

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        upstream = gradients[:4]
        if all(g is None for g in upstream):
            return (None,) * 8
        if any(ctx.needs_input_grad[3:6]) or not kernels_may_run(*upstream):
            return *_of_reference(ctx, _stats_again, upstream), None, None
        problem = _restored(ctx)
        needs = kernel.Needs(*ctx.needs_input_grad[:3])
        return _in_shape(problem, kernel.gradients(problem, ctx.values, kernel.Upstream(*upstream[:3]), needs), 8)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        problem = inputs[-1]
        weight = row_weights(problem)
        ctx.per_row = _upstream_of_rows(problem, weight)
        needs = kernel.Needs(*ctx.needs_input_grad[:3])
        values, ctx.gradients = kernel.loss_and_gradients(problem, kernel.Upstream(ctx.per_row), needs)
        ctx.values = values
        ctx.reduction, ctx.normalizer = problem.terms.reduction, problem.terms.normalizer
        _save(ctx, problem)
        return reduce_rows(values.loss, values.weight, problem.terms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        if g is None:
            return (None,) * 7
        if not kernels_may_run(g):
            return *_of_reference(ctx, partial(_total_again, ctx.reduction, ctx.normalizer), (g,)), None
        problem = _restored(ctx)
        made, ctx.gradients = ctx.gradients, None  # handed out once: autograd may then keep them as they are
        if made is None:
            needs = kernel.Needs(*ctx.needs_input_grad[:3])
            made = kernel.gradients(problem, ctx.values, kernel.Upstream(ctx.per_row), needs)
        if g != 1:
            for gradient in (made.hidden, made.weight, made.bias):
                if gradient is not None:
                    gradient.mul_(g.to(gradient.dtype) if gradient.dtype == g.dtype else g)
        return _in_shape(problem, made, 7)


def _upstream_of_rows(problem: HeadRows, weight: Tensor) -> Tensor:
    """The gradient of the sum or mean with respect to each row's loss, (N·K,)."""
    terms, ones = problem.terms, torch.ones(weight.numel(), dtype=weight.dtype)
    if terms.reduction == "sum":
        return ones
    total = sum_of_rows(weight)
    return ones / (total if terms.normalizer is None else as_denominator(terms.normalizer, total))


def _in_shape(problem: HeadRows, made: kernel.Gradients, count: int) -> tuple[Tensor | None, ...]:
    hidden = None if made.hidden is None else made.hidden.view(problem.hidden.shape)
    return (hidden, made.weight, made.bias) + (None,) * (count - 3)


def _of_reference(
    ctx: Any, formula: Callable[[HeadRows], Sequence[Tensor]], upstream: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Derivatives that only the reference has (of targets and weights, and second ones); it holds the logits."""
    problem = _restored(ctx)

    def of_tensors(*tensors: Any) -> Sequence[Tensor]:
        hidden, weight, bias, target, class_weight, row_weight = tensors
        terms = replace(problem.terms, weight=class_weight, row_weight=row_weight)
        return formula(HeadRows(hidden, weight, bias, problem.extra_shape, target, terms))

    return reference_gradient(of_tensors, _tensors(problem), ctx.needs_input_grad[:6], upstream)


def _total_again(reduction: str, normalizer: float | Tensor | None, problem: HeadRows) -> Sequence[Tensor]:
    terms = replace(problem.terms, reduction=reduction, normalizer=normalizer)
    loss, weight = reference.linear_cross_entropy.rows(problem)
    return (reduce_rows(loss, weight, terms),)


def _stats_again(problem: HeadRows) -> Sequence[Tensor]:
    stats = reference.linear_cross_entropy.rows_with_stats(problem)
    return tuple(value.flatten() for value in (stats.loss, stats.lse, stats.entropy, stats.weight))
