"""Binary cross-entropy of logits on the Triton kernels; in a graph, `xent::binary_elements` and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.ops.native.again import kernels_may_run, reference_gradient


def elements(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Loss of every element, in the dtype of `input`."""
    return _Elements.apply(input, target, weight, pos_weight)


class _Elements(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, target, weight, pos_weight)
        run = _forward_in_a_graph if torch.compiler.is_compiling() else _forward
        return run(input, target, weight, pos_weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return _gradient_in_a_graph(*saved, gradients[0]), None, None, None
        if not any(ctx.needs_input_grad[1:]) and kernels_may_run(*gradients):
            return _gradient(*saved, gradients[0]), None, None, None
        return reference_gradient(_again, saved, ctx.needs_input_grad, gradients)


def _again(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> tuple[Tensor]:
    return (reference.binary_cross_entropy_with_logits.elements(input, target, weight, pos_weight),)


def _forward(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    from xent.backends.triton import binary_cross_entropy_with_logits as kernel

    return kernel.forward(input, target, weight, pos_weight)


def _gradient(*inputs: Any) -> Tensor:
    from xent.backends.triton import binary_cross_entropy_with_logits as kernel

    return kernel.gradient(*inputs)


_SCHEMA = "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight"
_forward_in_a_graph = torch.library.custom_op(
    "xent::binary_elements", _forward, mutates_args=(), schema=f"({_SCHEMA}) -> Tensor"
)
_gradient_in_a_graph = torch.library.custom_op(
    "xent::binary_elements_gradient", _gradient, mutates_args=(), schema=f"({_SCHEMA}, Tensor upstream) -> Tensor"
)


@_forward_in_a_graph.register_fake
@_gradient_in_a_graph.register_fake
def _(input: Tensor, *others: Any) -> Tensor:
    return input.new_empty(input.shape)
