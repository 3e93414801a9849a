"""Linear + cross-entropy on the kernels, differentiable.

The sum and the mean know their upstream gradient up to one factor, so that gradients are made in the forward pass,
where the logits are; `backward` hands them out, times the factor: one rounding more where that is no power of two, and
in bfloat16 one of 2⁻⁹. A second backward, and every per-row use, makes the logits again, with the same numbers.

float16 has no room for gradients without their factor: of 2048 rows, p / N is 0 where p is below 6e-5, and a loss
scaler comes too late. Times N (the sum in the place of the mean) it would still lose what p itself loses, and its sums
over many rows would pass 65504. Its gradients are made in the backward pass, for the upstream gradient that arrives, at
one product more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import linear_cross_entropy as kernel
from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_rows import row_weights
from xent.head import Head, HeadRows, head_rows_of, product_dtype
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.native.autocast import outside_autocast, with_casts
from xent.problem import counted_mask, true_class
from xent.reduction import as_denominator, reduce_rows, sum_of_rows
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms

_TERMS = tuple(field.name for field in fields(LossTerms))


def total(problem: HeadRows) -> Tensor:
    """The sum or mean over the rows."""
    problem = with_casts(problem)
    required = [isinstance(x, Tensor) and x.requires_grad for x in (*_tensors(problem), problem.terms.normalizer)]
    if not torch.is_grad_enabled() or any(required[3:]) or not any(required[:3]):
        return reduce_rows(*rows(problem), problem.terms)
    return _Total.apply(*_tensors(problem), problem)


def rows(problem: HeadRows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows, *extra)."""
    problem = with_casts(problem)
    bare = _without_row_weight(problem)
    loss, _, _, weight, _ = _Rows.apply(*_tensors(bare), bare, False, torch.is_grad_enabled())
    return _weighed(problem, loss.view(problem.row_shape)), _weighed(problem, weight.view(problem.row_shape))


def rows_with_stats(problem: HeadRows) -> RowStats:
    """Loss, weight and statistics of every row."""
    problem = with_casts(problem)
    bare = _without_row_weight(problem)
    outputs = _Rows.apply(*_tensors(bare), bare, True, torch.is_grad_enabled())
    loss, lse, entropy, weight, prediction = (value.view(problem.row_shape) for value in outputs)
    weight = _weighed(problem, weight)
    return RowStats(
        loss=_weighed(problem, loss),
        lse=lse,
        entropy=entropy,
        z_loss=problem.terms.z_part(weight, lse),
        prediction=prediction,
        correct=(prediction == true_class(problem)) & (prediction >= 0),  # an ignored row predicts −1
        weight=weight,
    )


def plan_of_call(
    hidden: Tensor, weight: Tensor, target: Tensor | SparseTarget | None, options: Mapping[str, Any]
) -> Plan:
    """How values and gradients of a call would be cut; without a target, of one whose rows all count."""
    dim = options.get("dim")
    dim = hidden.ndim - 1 if dim is None else dim % max(hidden.ndim, 1)
    if target is None:
        shape = *hidden.shape[:dim], *weight.shape[1:-1], *hidden.shape[dim + 1 :]
        target = torch.zeros((), dtype=torch.int64, device=hidden.device).expand(shape)
    terms = LossTerms(**{name: options[name] for name in _TERMS if options.get(name) is not None})
    head = Head(weight, options.get("linear_bias"))
    problem = head_rows_of(hidden, head, target, terms, dim, options.get("shift") or 0)
    cast = {name: _shape_of(tensor) for name, tensor in (("hidden", problem.hidden), ("weight", problem.weight))}
    problem = replace(problem, **cast, max_memory=options.get("max_memory"))
    return kernel.plan_of(problem, kernel.Needs(hidden=True, weight=True, bias=False), options.get("top") or 0)


def _shape_of(tensor: Tensor) -> Tensor:
    """A tensor without memory, of the strides and the dtype in which a product would take this one."""
    dtype = product_dtype(tensor)
    if dtype != tensor.dtype:  # a cast makes a dense tensor of any
        return torch.empty_like(tensor, dtype=dtype, device="meta")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")


def _tensors(problem: HeadRows) -> tuple[Tensor | None, ...]:
    terms = problem.terms
    return (
        problem.hidden,
        problem.weight,
        problem.bias,
        problem.target,
        terms.weight,
        terms.row_weight,
        problem.probabilities,
    )


def _with_tensors(problem: HeadRows, tensors: Sequence[Any]) -> HeadRows:
    hidden, weight, bias, target, class_weight, row_weight, probabilities = tensors
    terms = replace(problem.terms, weight=class_weight, row_weight=row_weight)
    return replace(
        problem, hidden=hidden, weight=weight, bias=bias, target=target, terms=terms, probabilities=probabilities
    )


def _without_row_weight(problem: HeadRows) -> HeadRows:
    """What the kernels are given: a row weight multiplies losses, which is done, and differentiated, outside."""
    return (
        replace(problem, terms=replace(problem.terms, row_weight=None))
        if problem.terms.row_weight is not None
        else problem
    )


def _weighed(problem: HeadRows, value: Tensor) -> Tensor:
    row_weight = problem.terms.row_weight
    if row_weight is None:
        return value
    value, counted = value * row_weight.to(value.dtype), counted_mask(problem)
    return value if counted is None else value.masked_fill(~counted, 0)  # a row weight of an ignored row is not read


def _save(ctx: Any, problem: HeadRows) -> None:
    nothing = torch.empty(0)
    terms = replace(problem.terms, normalizer=None)
    ctx.problem = _with_tensors(replace(problem, terms=terms), (nothing, nothing, None, nothing, None, None, None))
    ctx.save_for_backward(*_tensors(problem))


def _restored(ctx: Any) -> HeadRows:
    return _with_tensors(ctx.problem, ctx.saved_tensors)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        problem, with_stats, with_gradient = inputs[-3:]
        needs = _needs(ctx) if with_gradient else None
        values = kernel.forward(problem, with_stats=with_stats, needs=needs)
        ctx.set_materialize_grads(False)
        # Outputs are copies of what is kept: their user may write over them, and a node that holds its own output is a
        # cycle that nobody collects.
        ctx.values = replace(values, prediction=None, lse=None)
        _save(ctx, problem)
        loss, weight = values.loss.clone(), values.weight.clone()
        lse = values.exact_lse.to(loss.dtype, copy=True) if values.lse is None else values.lse
        entropy = torch.zeros_like(lse) if values.entropy is None else values.entropy.clone()
        prediction = torch.full_like(lse, -1) if values.prediction is None else values.prediction
        weighed = ctx.needs_input_grad[4]  # the weight of a row depends on the class weight
        ctx.mark_non_differentiable(prediction, *(() if weighed else (weight,)))
        return loss, lse, entropy, weight, prediction

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        upstream = gradients[:4]
        if all(g is None for g in upstream):
            return (None,) * 10
        if not kernels_may_run(*upstream):
            return *_of_reference(ctx, _stats_again, upstream), None, None, None
        problem = _restored(ctx)
        made = kernel.gradients(problem, ctx.values, kernel.Upstream(*upstream), _needs(ctx))
        return *_in_order(problem, made), None, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        problem = inputs[-1]
        ctx.per_row = _upstream_of_rows(problem, row_weights(problem))
        needs, bare = kernel.Needs(*ctx.needs_input_grad[:3]), _without_row_weight(problem)
        if _waits(problem):
            values, ctx.gradients = kernel.forward(bare, with_stats=False, needs=needs), None
        else:
            values, ctx.gradients = kernel.loss_and_gradients(bare, kernel.Upstream(ctx.per_row), needs)
        ctx.values = values
        ctx.reduction, ctx.normalizer = problem.terms.reduction, problem.terms.normalizer
        _save(ctx, problem)
        shape = problem.row_shape
        loss, weight = (_weighed(problem, value.view(shape)) for value in (values.loss, values.weight))
        return reduce_rows(loss, weight, problem.terms)

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        if g is None:
            return (None,) * 8
        if not kernels_may_run(g):
            return *_of_reference(ctx, partial(_total_again, ctx.reduction, ctx.normalizer), (g,)), None
        problem = _restored(ctx)
        made, ctx.gradients = ctx.gradients, None  # handed out once: autograd may then keep them as they are
        waits = _waits(problem)
        if made is None:
            upstream = kernel.Upstream(ctx.per_row * g if waits else ctx.per_row)
            needs = kernel.Needs(*ctx.needs_input_grad[:3])
            made = kernel.gradients(_without_row_weight(problem), ctx.values, upstream, needs)
        if g != 1 and not waits:
            for gradient in (made.hidden, made.weight, made.bias):
                if gradient is not None:
                    gradient.mul_(g.to(gradient.dtype) if gradient.dtype == g.dtype else g)
        return *_in_order(problem, made), None


def _needs(ctx: Any) -> kernel.Needs:
    hidden, weight, bias, target, class_weight, _, probabilities = ctx.needs_input_grad[:7]
    return kernel.Needs(hidden, weight, bias, target, class_weight, probabilities)


def _waits(problem: HeadRows) -> bool:
    """Whether gradients are made when their factor is known."""
    return problem.hidden.dtype == torch.float16


def _upstream_of_rows(problem: HeadRows, weight: Tensor) -> Tensor:
    """The gradient of the sum or mean with respect to each row's loss, (N·K,)."""
    terms, upstream = problem.terms, torch.ones(weight.shape, dtype=weight.dtype)
    if terms.reduction == "mean":
        total = sum_of_rows(weight)
        upstream = upstream / (total if terms.normalizer is None else as_denominator(terms.normalizer, total))
    return _weighed(problem, upstream).detach().reshape(-1)


def _in_order(problem: HeadRows, made: kernel.Gradients) -> tuple[Tensor | None, ...]:
    """The gradients in the order of `_tensors`."""
    hidden = None if made.hidden is None else made.hidden.view(problem.hidden.shape)
    return hidden, made.weight, made.bias, made.target, made.class_weight, None, made.probabilities


def _of_reference(
    ctx: Any, formula: Callable[[HeadRows], Sequence[Tensor]], upstream: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Derivatives that only the reference has (of targets and weights, and second ones); it holds the logits."""
    problem = _restored(ctx)

    def of_tensors(*tensors: Any) -> Sequence[Tensor]:
        return formula(replace(_with_tensors(problem, tensors), max_memory=None))

    return reference_gradient(of_tensors, _tensors(problem), ctx.needs_input_grad[:7], upstream)


def _total_again(reduction: str, normalizer: float | Tensor | None, problem: HeadRows) -> Sequence[Tensor]:
    terms = replace(problem.terms, reduction=reduction, normalizer=normalizer)
    loss, weight = reference.linear_cross_entropy.rows(problem)
    return (reduce_rows(loss, weight, terms),)


def _stats_again(problem: HeadRows) -> Sequence[Tensor]:
    stats = reference.linear_cross_entropy.rows_with_stats(problem)
    return tuple(value.flatten() for value in (stats.loss, stats.lse, stats.entropy, stats.weight))
