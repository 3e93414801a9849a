"""Log-sum-exp on the Triton kernels, differentiable; in a graph, `xent::logsumexp_rows` and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.triton.row_layout import empty_gradient
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.problem import stats_dtype

TAKES_HALF = True  # in float32 inside, rounded once


def logsumexp(input: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """The log of the sum of exponentials, in the dtype of `input`."""
    if len(dim) != 1 or input.ndim == 0 or input.shape[dim[0]] == 0:  # one dimension, with classes in it
        wide = input.to(stats_dtype(input.dtype))
        return reference.logsumexp.logsumexp(wide, dim, keepdim).to(input.dtype)
    classes_last = input.movedim(dim[0], -1)
    result = _LogSumExp.apply(classes_last)[0].view(classes_last.shape[:-1]).to(input.dtype)
    return result.unsqueeze(dim[0]) if keepdim else result


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> tuple[Tensor, ...]:
        lse, largest, logsum = _forward_in_a_graph(input) if torch.compiler.is_compiling() else _forward(input)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, largest, logsum)
        ctx.mark_non_differentiable(largest, logsum)
        return lse, largest, logsum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        upstream = gradients[0]
        if upstream is None:
            return None
        input, largest, logsum = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return _gradient_in_a_graph(input, largest, logsum, upstream)
        if kernels_may_run(upstream):
            return _gradient(input, largest, logsum, upstream)
        return reference_gradient(_again, (input,), (True,), (upstream,))[0]


def _again(input: Tensor) -> tuple[Tensor]:
    return (reference.logsumexp.logsumexp(input.to(stats_dtype(input.dtype)), (-1,), False).flatten(),)


def _forward(input: Tensor) -> tuple[Tensor, ...]:
    from xent.backends.triton import logsumexp as kernel

    return kernel.forward(input)


def _gradient(input: Tensor, largest: Tensor, logsum: Tensor, upstream: Tensor) -> Tensor:
    from xent.backends.triton import logsumexp as kernel

    return kernel.gradient(input, largest, logsum, upstream)


_forward_in_a_graph = torch.library.custom_op(
    "xent::logsumexp_rows", _forward, mutates_args=(), schema="(Tensor input) -> (Tensor, Tensor, Tensor)"
)
_gradient_in_a_graph = torch.library.custom_op(
    "xent::logsumexp_gradient",
    _gradient,
    mutates_args=(),
    schema="(Tensor input, Tensor largest, Tensor logsum, Tensor upstream) -> Tensor",
)


@_forward_in_a_graph.register_fake
def _(input: Tensor) -> tuple[Tensor, ...]:
    shape = (input.shape[:-1].numel(),)
    lse, largest, logsum = (input.new_empty(shape, dtype=stats_dtype(input.dtype)) for _ in range(3))
    return lse, largest, logsum


@_gradient_in_a_graph.register_fake
def _(input: Tensor, *others: Tensor) -> Tensor:
    return empty_gradient(input)
