"""Linear + cross-entropy on the Triton kernels, differentiable.

The sum and the mean know their upstream gradient up to one factor, so that gradients are made in the forward pass,
where the logits are; `backward` hands them out, times the factor, which the host never reads. A second backward, and
every per-row use, makes the logits again.

float16 has room neither for gradients with their factor before a loss scaler has lifted it, nor without it for their
sums over many rows, which pass 65504, and stay infinite whatever the scaler does. Its gradients are made in the
backward pass, for the upstream gradient that arrives, at one product more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.head import HeadRows
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.triton import linear_operations as operations
from xent.ops.triton.casts import outside_autocast, with_casts
from xent.problem import counted_mask, safe_target, stats_dtype, true_class
from xent.reduction import as_denominator, reduce_rows
from xent.row_stats import RowStats


def total(problem: HeadRows) -> Tensor:
    """The sum or mean over the rows."""
    problem = with_casts(problem)
    terms = problem.terms
    tensors = *_tensors(problem), terms.row_weight, terms.normalizer
    required = [isinstance(x, Tensor) and x.requires_grad for x in tensors]
    if not torch.is_grad_enabled() or any(required[3:]) or not any(required[:3]):
        return reduce_rows(*rows(problem), terms)
    bare = _without_row_weight(problem)
    weight = _weighed(problem, _row_weights(bare))
    denominator = None
    if terms.reduction == "mean":
        denominator = weight.sum() if terms.normalizer is None else as_denominator(terms.normalizer, weight)
    per_row = _weighed(problem, torch.ones_like(weight)).detach().reshape(-1)
    return _Total.apply(*_tensors(bare), per_row, _as_tensor(denominator, weight), problem)


def rows(problem: HeadRows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows, *extra)."""
    problem = with_casts(problem)
    bare = _without_row_weight(problem)
    loss, weight, *_ = _Rows.apply(*_tensors(bare), bare, False)
    return _weighed(problem, loss.view(problem.row_shape)), _weighed(problem, weight.view(problem.row_shape))


def rows_with_stats(problem: HeadRows) -> RowStats:
    """Loss, weight and statistics of every row."""
    problem = with_casts(problem)
    bare = _without_row_weight(problem)
    outputs = _Rows.apply(*_tensors(bare), bare, True)
    loss, weight, lse, entropy, prediction = (value.view(problem.row_shape) for value in outputs)
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


def _tensors(problem: HeadRows) -> tuple[Tensor | None, ...]:
    layer = problem.hidden, problem.weight, problem.bias
    return *layer, problem.target, problem.terms.weight, problem.probabilities


def _with_tensors(problem: HeadRows, tensors: Sequence[Any]) -> HeadRows:
    hidden, weight, bias, target, class_weight, probabilities = tensors
    terms = problem.terms.with_weights(class_weight, problem.terms.row_weight)
    cut = problem.max_memory, probabilities, problem.gradient_filter
    return HeadRows(hidden, weight, bias, problem.extra_shape, target, terms, *cut)


def _without_row_weight(problem: HeadRows) -> HeadRows:
    layer, cut = (problem.hidden, problem.weight, problem.bias), (problem.max_memory, problem.probabilities)
    terms = problem.terms.with_weights(problem.terms.weight, None)
    return HeadRows(*layer, problem.extra_shape, problem.target, terms, *cut, problem.gradient_filter)


def _weighed(problem: HeadRows, value: Tensor) -> Tensor:
    row_weight = problem.terms.row_weight
    if row_weight is None:
        return value
    value, counted = value * row_weight.to(value.dtype), counted_mask(problem)
    return value if counted is None else value.masked_fill(~counted, 0)  # a row weight of an ignored row is not read


def _row_weights(problem: HeadRows) -> Tensor:
    """What each row adds to the mean's denominator, (*rows, *extra): known before any product."""
    terms, dtype = problem.terms, stats_dtype(problem.hidden.dtype)
    weight = torch.ones(problem.row_shape, dtype=dtype, device=problem.hidden.device)
    if problem.is_hard and terms.weight is not None:
        inside = safe_target(problem).clamp(0, problem.num_classes - 1)  # outside: NaN by its loss
        weight = terms.weight.detach().to(dtype).index_select(0, inside.reshape(-1)).reshape(inside.shape)
    counted = counted_mask(problem)
    return weight if counted is None else weight.masked_fill(~counted, 0)


def _as_tensor(denominator: float | Tensor | None, like: Tensor) -> Tensor | None:
    """A denominator on the device, made there: a number must not be copied from the host."""
    if denominator is None or isinstance(denominator, Tensor):
        return denominator
    return torch.full((), denominator, dtype=like.dtype, device=like.device)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        tensors, (problem, with_stats) = inputs[:6], inputs[6:]
        problem = _with_tensors(problem, tensors)
        found = operations.values(*operations.arguments_of(problem), with_stats)
        loss, weight, largest, logsum, mass, lse, entropy, prediction = found
        ctx.set_materialize_grads(False)
        ctx.problem, ctx.with_stats, ctx.losses = _with_tensors(problem, (None,) * 6), with_stats, loss.detach()
        ctx.save_for_backward(*tensors, largest, logsum, mass, entropy)
        ctx.mark_non_differentiable(prediction, *(() if ctx.needs_input_grad[4] else (weight,)))
        return loss, weight, lse, entropy, prediction

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gradients):
            return (None,) * 8
        g_loss, g_weight, g_lse, g_entropy, _ = gradients
        if not ctx.with_stats:  # a graph hands in zeros of their shape, which is empty
            g_lse = g_entropy = None
        saved = ctx.saved_tensors
        problem = _with_tensors(ctx.problem, saved[:6])
        if not torch.compiler.is_compiling() and not kernels_may_run(*gradients):
            return *_of_reference(ctx, problem, gradients[:4]), None, None
        needs = [*ctx.needs_input_grad[:3]]
        made: Sequence[Tensor | None] = (None,) * 3
        if any(needs) and not (g_loss is None and g_lse is None and g_entropy is None):
            arguments = operations.arguments_of(problem)
            made = operations.gradients(*arguments, *saved[6:], g_loss, g_lse, g_entropy, needs)
        of_terms = (None,) * 3
        if any(ctx.needs_input_grad[3:6]):
            of_terms = _of_terms(problem, ctx.needs_input_grad[3:6], (g_loss, g_weight))
        return *_in_shape(problem, made, needs), *of_terms, None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        tensors, (per_row, denominator, problem) = inputs[:6], inputs[6:]
        bare = _without_row_weight(_with_tensors(problem, tensors))
        needs, waits = [*ctx.needs_input_grad[:3]], bare.hidden.dtype == torch.float16
        if waits:
            loss, _, largest, logsum, mass, *_ = operations.values(*operations.arguments_of(bare), False)
            made: Sequence[Tensor] = ()
        else:
            upstream = per_row if denominator is None else per_row / denominator
            found = operations.values_and_gradients(*operations.arguments_of(bare), upstream, needs)
            loss, _, largest, logsum, mass, *made = found
        ctx.problem, ctx.needs, ctx.waits = _with_tensors(problem, (None,) * 6), needs, waits
        ctx.losses = loss * per_row  # for whoever explains the value
        in_a_graph = torch.compiler.is_compiling()
        ctx.made = None if in_a_graph or waits else made  # handed out once: autograd may then keep them as they are
        ctx.save_for_backward(*tensors, per_row, denominator, largest, logsum, mass, *(made if in_a_graph else ()))
        total = ctx.losses.sum()
        return total if denominator is None else total / denominator

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        saved = ctx.saved_tensors  # read once: activation checkpointing makes them again for it
        tensors, (per_row, denominator, *state) = saved[:6], saved[6:]
        problem, in_a_graph = _without_row_weight(_with_tensors(ctx.problem, tensors)), torch.compiler.is_compiling()
        if not in_a_graph and not kernels_may_run(g):
            return *_total_of_reference(ctx, problem, per_row, denominator, g), *(None,) * 3
        upstream = per_row if denominator is None else per_row / denominator
        if ctx.waits:
            made = _again(ctx, problem, state, upstream * g)
        elif in_a_graph:
            made = [(gradient.to(g.dtype) * g).to(gradient.dtype) for gradient in state[3:]]
        else:
            made, ctx.made = ctx.made, None
            made = _again(ctx, problem, state, upstream) if made is None else made
            _scale(made, g)
        return *_in_shape(problem, made, ctx.needs), *(None,) * 6


def _again(ctx: Any, problem: HeadRows, state: Sequence[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    """The gradients, from logits that are made again."""
    saved = *state[:3], problem.hidden.new_empty(0, dtype=upstream.dtype)
    return operations.gradients(*operations.arguments_of(problem), *saved, upstream, None, None, ctx.needs)


def _scale(made: Sequence[Tensor], factor: Tensor) -> None:
    from xent.backends.triton.scale import scale_in_place

    for gradient in made:
        scale_in_place(gradient, factor)


def _in_shape(problem: HeadRows, made: Sequence[Tensor | None], needs: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of hidden states, weight and bias in the shapes of theirs."""
    shapes = problem.hidden.shape, problem.weight.shape, (problem.weight.shape[0],)
    return tuple(
        gradient.view(shape) if need and gradient is not None else None
        for gradient, shape, need in zip(made, shapes, needs, strict=True)
    )


def _of_terms(
    problem: HeadRows, needed: tuple[bool, ...], upstream: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor | None, ...]:
    """Gradients of target, class weight and probabilities by the reference formula, a chunk of logits at a time."""
    from xent.backends.triton.linear_cross_entropy import chunks
    from xent.backends.triton.linear_plan import plan_of

    found: list[list[Tensor]] = [[], [], []]
    with torch.no_grad():
        for chunk in chunks(problem, plan_of(problem)):
            parts = (None if g is None else g[chunk.losses] for g in upstream)

            def formula(target: Tensor, weight: Tensor | None, probabilities: Tensor | None, rows=chunk.rows) -> Any:
                terms = replace(rows.terms, weight=weight)
                given = replace(rows, target=target, terms=terms, probabilities=probabilities)
                return tuple(value.flatten() for value in reference.cross_entropy.rows(given))

            inputs = chunk.rows.target, chunk.rows.terms.weight, chunk.rows.probabilities
            inputs = tuple(None if x is None else x.detach().requires_grad_(need and x.is_floating_point())
                           for x, need in zip(inputs, needed, strict=True))  # fmt: skip
            of_chunk = reference_gradient(formula, inputs, needed, tuple(parts))
            for list_of, made in zip(found, of_chunk, strict=True):
                list_of.extend([] if made is None else [made])
    target, weight, probabilities = found
    return (
        torch.cat(target).view(problem.target.shape) if target else None,
        torch.stack(weight).sum(0) if weight else None,
        torch.cat(probabilities).view(problem.target.shape) if probabilities else None,
    )


def _of_reference(ctx: Any, problem: HeadRows, upstream: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Second derivatives and batched ones; they hold the logits."""
    formula: Callable[..., Sequence[Tensor]] = _stats_again if ctx.with_stats else _rows_again

    def of_tensors(*tensors: Any) -> Sequence[Tensor]:
        return formula(replace(_with_tensors(problem, tensors), max_memory=None))

    upstream = upstream if ctx.with_stats else upstream[:2]
    return reference_gradient(of_tensors, _tensors(problem), ctx.needs_input_grad[:6], upstream)


def _total_of_reference(
    ctx: Any, problem: HeadRows, per_row: Tensor, denominator: Tensor | None, upstream: Tensor
) -> tuple[Tensor | None, ...]:
    def of_tensors(*tensors: Any) -> Sequence[Tensor]:
        loss, _ = reference.linear_cross_entropy.rows(replace(_with_tensors(problem, tensors), max_memory=None))
        total = (loss.flatten() * per_row).sum()
        return (total if denominator is None else total / denominator,)

    return reference_gradient(of_tensors, _tensors(problem), ctx.needs_input_grad[:6], (upstream,))


def _rows_again(problem: HeadRows) -> Sequence[Tensor]:
    loss, weight = reference.linear_cross_entropy.rows(problem)
    return loss.flatten(), weight.flatten()


def _stats_again(problem: HeadRows) -> Sequence[Tensor]:
    stats = reference.linear_cross_entropy.rows_with_stats(problem)
    return tuple(value.flatten() for value in (stats.loss, stats.weight, stats.lse, stats.entropy))
