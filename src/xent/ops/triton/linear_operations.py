"""The operations of the linear loss on flat arguments: called as they are, or in a graph as `xent::linear_…`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from xent.head import HeadRows
from xent.ops.triton.flat_terms import flat, terms_of
from xent.problem import check_range_of, stats_dtype

_PROBLEM = (
    "Tensor hidden, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? probabilities, Tensor? weight, "
    "int ignore_index, float label_smoothing, float z_loss, float softcap, float logit_scale, "
    "int[] extra_shape, int? max_memory, float gradient_filter"
)
_NUMBER = 14  # of the arguments above


def arguments_of(problem: HeadRows) -> tuple[Any, ...]:
    """A problem without row weights as the arguments of an operation."""
    layer = problem.hidden, problem.weight, problem.bias
    cut = list(problem.extra_shape), problem.max_memory, problem.gradient_filter
    return *layer, problem.target, problem.probabilities, problem.terms.weight, *flat(problem.terms), *cut


def _problem(arguments: tuple[Any, ...]) -> HeadRows:
    hidden, weight, bias, target, probabilities, class_weight, *numbers, extra_shape, max_memory, least = arguments
    terms = terms_of(class_weight, None, *numbers)
    return HeadRows(hidden, weight, bias, tuple(extra_shape), target, terms, max_memory, probabilities, least)


def values(*arguments: Any) -> tuple[Tensor, ...]:
    """The eight values of every row; the last argument asks for statistics."""
    if torch.compiler.is_compiling():
        return _values_in_a_graph(*arguments)
    return _values(*arguments)


def gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """Gradients of hidden states, weight and bias, empty where not needed, from the saved values and the upstream."""
    if torch.compiler.is_compiling():
        return _gradients_in_a_graph(*arguments)
    return _gradients(*arguments)


def values_and_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """Loss, weight, largest, logsum and mass of every row, and the three gradients, from one upstream number a row."""
    if torch.compiler.is_compiling():
        return _both_in_a_graph(*arguments)
    return _both(*arguments)


def _values(*arguments: Any) -> tuple[Tensor, ...]:
    from xent.backends.triton import linear_cross_entropy as kernel

    return kernel.forward(_problem(arguments[:_NUMBER]), arguments[_NUMBER]).as_tensors()


def _gradients(*arguments: Any) -> tuple[Tensor, ...]:
    from xent.backends.triton import linear_cross_entropy as kernel

    largest, logsum, mass, entropy, g_loss, g_lse, g_entropy, needs = arguments[_NUMBER:]
    upstream = kernel.Upstream(g_loss, g_lse, g_entropy)
    made = kernel.gradients(
        _problem(arguments[:_NUMBER]), kernel.Saved(largest, logsum, mass, entropy), upstream, kernel.Needs(*needs)
    )
    return _each(arguments[0], (made.hidden, made.weight, made.bias))


def _both(*arguments: Any) -> tuple[Tensor, ...]:
    from xent.backends.triton import linear_cross_entropy as kernel

    per_row, needs = arguments[_NUMBER:]
    found, made = kernel.loss_and_gradients(_problem(arguments[:_NUMBER]), per_row, kernel.Needs(*needs))
    gradients = _each(arguments[0], (made.hidden, made.weight, made.bias))
    return found.loss, found.weight, found.largest, found.logsum, found.mass, *gradients


def _checked(run: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """In a graph the door, `xent.problem`, is only traced: what it does to targets out of range is done here."""

    @wraps(run)
    def checked(*arguments: Any) -> tuple[Tensor, ...]:
        check_range_of(_problem(arguments[:_NUMBER]))
        return run(*arguments)

    return checked


def _each(hidden: Tensor, made: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(hidden.new_empty(0) if gradient is None else gradient for gradient in made)


_values_in_a_graph = torch.library.custom_op(
    "xent::linear_rows",
    _checked(_values),
    mutates_args=(),
    schema=f"({_PROBLEM}, bool with_stats) -> ({', '.join(['Tensor'] * 8)})",
)
_gradients_in_a_graph = torch.library.custom_op(
    "xent::linear_gradients",
    _gradients,
    mutates_args=(),
    schema=f"({_PROBLEM}, Tensor largest, Tensor logsum, Tensor mass, Tensor entropy, Tensor? g_loss, Tensor? g_lse, "
    "Tensor? g_entropy, bool[] needs) -> (Tensor, Tensor, Tensor)",
)
_both_in_a_graph = torch.library.custom_op(
    "xent::linear_rows_and_gradients",
    _checked(_both),
    mutates_args=(),
    schema=f"({_PROBLEM}, Tensor per_row, bool[] needs) -> ({', '.join(['Tensor'] * 8)})",
)


def _count(arguments: tuple[Any, ...]) -> int:
    count = arguments[0].shape[:-1].numel()
    for size in arguments[11]:
        count = count * size
    return count


@_values_in_a_graph.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    hidden, count = arguments[0], _count(arguments)
    of_stats = count if arguments[_NUMBER] else 0
    dtype = stats_dtype(hidden.dtype)
    floats = [hidden.new_empty((size,), dtype=dtype) for size in (*(count,) * 5, *(of_stats,) * 2)]
    return *floats, hidden.new_empty((of_stats,), dtype=torch.int64)


@_gradients_in_a_graph.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    return _empty_gradients(arguments, arguments[-1])


@_both_in_a_graph.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    hidden, count = arguments[0], _count(arguments)
    floats = [hidden.new_empty((count,), dtype=stats_dtype(hidden.dtype)) for _ in range(5)]
    return *floats, *_empty_gradients(arguments, arguments[-1])


def _empty_gradients(arguments: tuple[Any, ...], needs: Sequence[bool]) -> tuple[Tensor, ...]:
    hidden, weight = arguments[:2]
    shapes = (hidden.shape[:-1].numel(), hidden.shape[-1]), tuple(weight.shape), (weight.shape[0],)
    return tuple(hidden.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs, strict=True))
