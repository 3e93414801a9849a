"""Cross-entropy on the Triton kernels, differentiable.

Eager calls go straight to the kernels; in a graph of torch.compile they are the operations `xent::cross_entropy_rows`
and `xent::cross_entropy_gradient`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.triton.row_layout import empty_gradient
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.triton.flat_terms import SCHEMA, flat, terms_of
from xent.problem import Rows, check_range_of, stats_dtype, true_class
from xent.reduction import reduce_rows
from xent.row_stats import RowStats
from xent.terms import LossTerms

LOOKS_AT_TARGETS = False  # the host does not know them


def total(problem: Rows) -> Tensor:
    """The sum or mean over the rows."""
    return reduce_rows(*rows(problem), problem.terms)


def rows(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows)."""
    shape = problem.logits.shape[:-1]
    loss, weight, *_ = _Rows.apply(*_tensors(problem), problem.terms, False)
    return (loss, weight) if len(shape) == 1 else (loss.view(shape), weight.view(shape))


def rows_with_stats(problem: Rows) -> RowStats:
    """Loss, weight and statistics of every row."""
    outputs = _Rows.apply(*_tensors(problem), problem.terms, True)
    loss, weight, lse, entropy, prediction = (value.view(problem.logits.shape[:-1]) for value in outputs)
    return RowStats(
        loss=loss,
        lse=lse,
        entropy=entropy,
        z_loss=problem.terms.z_part(weight, lse),
        prediction=prediction,
        correct=(prediction == true_class(problem)) & (prediction >= 0),  # an ignored row predicts −1
        weight=weight,
    )


def _tensors(problem: Rows) -> tuple[Tensor | None, ...]:
    return problem.logits, problem.target, problem.probabilities, problem.terms.weight, problem.terms.row_weight


def _problem(tensors: tuple[Any, ...], terms: LossTerms) -> Rows:
    logits, target, probabilities, weight, row_weight = tensors
    return Rows(logits, target, terms.with_weights(weight, row_weight), probabilities)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        terms, with_stats = inputs[-2:]
        tensors = inputs[:5]
        if torch.compiler.is_compiling():
            found = _forward_in_a_graph(*tensors, *flat(terms), with_stats)
        else:
            found = _values(Rows(inputs[0], inputs[1], terms, inputs[2]), with_stats)
        loss, weight, largest, logsum, mass, lse, entropy, prediction = found
        ctx.set_materialize_grads(False)
        ctx.terms, ctx.with_stats = terms.with_weights(None, None), with_stats
        ctx.save_for_backward(*tensors, largest, logsum, mass, entropy)
        weighed = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        fixed = (prediction, *(() if weighed else (weight,)))
        ctx.mark_non_differentiable(*(value for value in fixed if value is not None))
        return loss, weight, lse, entropy, prediction

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gradients):
            return (None,) * 7
        g_loss, _, g_lse, g_entropy, _ = gradients
        if not ctx.with_stats:  # a graph hands in zeros of their shape, which is empty
            g_lse = g_entropy = None
        saved = ctx.saved_tensors  # read once: activation checkpointing makes them again for it
        if torch.compiler.is_compiling():
            made = _gradient_in_a_graph(*saved[:5], *flat(ctx.terms), *saved[5:], g_loss, g_lse, g_entropy)
            return made, *(None,) * 6
        if not any(ctx.needs_input_grad[1:5]) and kernels_may_run(*gradients):
            return _made(_problem(saved[:5], ctx.terms), saved[5:], (g_loss, g_lse, g_entropy)), *(None,) * 6
        return *_of_reference(ctx, saved[:5], gradients[:4]), None, None


def _of_reference(ctx: Any, tensors: tuple[Any, ...], upstream: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    formula: Callable[[Rows], tuple[Tensor, ...]] = _stats_again if ctx.with_stats else _rows_again

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        return formula(_problem(tensors, ctx.terms))

    upstream = upstream if ctx.with_stats else upstream[:2]
    return reference_gradient(of_tensors, tensors, ctx.needs_input_grad[:5], upstream)


def _rows_again(problem: Rows) -> tuple[Tensor, ...]:
    loss, weight = reference.cross_entropy.rows(problem)
    return loss.flatten(), weight.flatten()


def _stats_again(problem: Rows) -> tuple[Tensor, ...]:
    stats = reference.cross_entropy.rows_with_stats(problem)
    return tuple(value.flatten() for value in (stats.loss, stats.weight, stats.lse, stats.entropy))


def _given(inputs: tuple[Any, ...]) -> Rows:
    logits, target, probabilities, weight, row_weight, *numbers = inputs
    return Rows(logits, target, terms_of(weight, row_weight, *numbers), probabilities)


@cache
def _kernels() -> tuple[ModuleType, ModuleType]:
    """Forward and gradient, imported where they are first needed, with triton."""
    from xent.backends.triton import cross_entropy, cross_entropy_gradient

    return cross_entropy, cross_entropy_gradient


def _values(problem: Rows, with_stats: bool) -> tuple[Any, ...]:
    return tuple(vars(_kernels()[0].forward(problem, with_stats)).values())


def _made(problem: Rows, saved: tuple[Any, ...], upstream: tuple[Tensor | None, ...]) -> Tensor:
    forward, backward = _kernels()
    return backward.gradient(problem, forward.Saved(*saved), backward.Upstream(*upstream))


def _checked_forward(*inputs: Any) -> tuple[Tensor, ...]:
    """In a graph the door, `xent.problem`, is only traced: what it does to targets out of range is done here."""
    problem = _given(inputs[:10])
    check_range_of(problem)
    return _kernels()[0].forward(problem, inputs[10]).as_tensors()


def _gradient(*inputs: Any) -> Tensor:
    return _made(_given(inputs[:10]), inputs[10:14], inputs[14:])


_forward_in_a_graph = torch.library.custom_op(
    "xent::cross_entropy_rows",
    _checked_forward,
    mutates_args=(),
    schema=f"({SCHEMA}, bool with_stats) -> ({', '.join(['Tensor'] * 8)})",
)
_gradient_in_a_graph = torch.library.custom_op(
    "xent::cross_entropy_gradient",
    _gradient,
    mutates_args=(),
    schema=f"({SCHEMA}, Tensor largest, Tensor logsum, Tensor mass, Tensor entropy, "
    "Tensor? g_loss, Tensor? g_lse, Tensor? g_entropy) -> Tensor",
)


@_forward_in_a_graph.register_fake
def _(logits: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    count, of_stats = logits.shape[:-1].numel(), logits.shape[:-1].numel() if inputs[-1] else 0
    dtype = stats_dtype(logits.dtype)
    floats = [logits.new_empty((size,), dtype=dtype) for size in (*(count,) * 5, *(of_stats,) * 2)]
    return *floats, logits.new_empty((of_stats,), dtype=torch.int64)


@_gradient_in_a_graph.register_fake
def _(logits: Tensor, *inputs: Any) -> Tensor:
    return empty_gradient(logits)
