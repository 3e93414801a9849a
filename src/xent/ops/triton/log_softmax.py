"""Log-softmax on the Triton kernels, differentiable; in a graph, `xent::log_softmax_rows` and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.triton.row_layout import empty_gradient
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.problem import stats_dtype

TAKES_HALF = True  # in float32 inside, rounded once


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Log-probabilities in the dtype of `input`."""
    if input.ndim == 0:
        return _again(input, dim)
    return _LogSoftmax.apply(input.movedim(dim, -1))[0].movedim(-1, dim)


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> tuple[Tensor, ...]:
        result, largest, logsum = _forward_in_a_graph(input) if torch.compiler.is_compiling() else _forward(input)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, largest, logsum)
        ctx.mark_non_differentiable(largest, logsum)
        return result, largest, logsum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        upstream = gradients[0]
        if upstream is None:
            return None
        saved = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return _gradient_in_a_graph(*saved, upstream)
        if kernels_may_run(upstream):
            return _gradient(*saved, upstream)
        return reference_gradient(lambda x: (_again(x, -1),), (saved[0],), (True,), (upstream,))[0]


def _again(input: Tensor, dim: int) -> Tensor:
    return reference.log_softmax.log_softmax(input.to(stats_dtype(input.dtype)), dim).to(input.dtype)


def _forward(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from xent.backends.triton import log_softmax as kernel

    return kernel.forward(input)


def _gradient(*inputs: Tensor) -> Tensor:
    from xent.backends.triton import log_softmax as kernel

    return kernel.gradient(*inputs)


_forward_in_a_graph = torch.library.custom_op(
    "xent::log_softmax_rows", _forward, mutates_args=(), schema="(Tensor input) -> (Tensor, Tensor, Tensor)"
)
_gradient_in_a_graph = torch.library.custom_op(
    "xent::log_softmax_gradient",
    _gradient,
    mutates_args=(),
    schema="(Tensor input, Tensor largest, Tensor logsum, Tensor upstream) -> Tensor",
)


@_forward_in_a_graph.register_fake
def _(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest, logsum = (input.new_empty((input.shape[:-1].numel(),), dtype=stats_dtype(input.dtype)) for _ in range(2))
    return empty_gradient(input), largest, logsum


@_gradient_in_a_graph.register_fake
def _(input: Tensor, *others: Tensor) -> Tensor:
    return empty_gradient(input)
