"""Binary cross-entropy of logits on the kernels, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import binary_cross_entropy_with_logits as kernel
from xent.ops.native.again import kernels_may_run, reference_gradient


def elements(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Loss of every element, in the dtype of `input`."""
    return _Elements.apply(input, target, weight, pos_weight)


class _Elements(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, target, weight, pos_weight)
        return kernel.forward(input, target, weight, pos_weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not any(ctx.needs_input_grad[1:]) and kernels_may_run(*gradients):
            input, target, weight, pos_weight = ctx.saved_tensors
            return kernel.gradient(input, target, weight, pos_weight, gradients[0]), None, None, None
        return reference_gradient(_again, ctx.saved_tensors, ctx.needs_input_grad, gradients)


def _again(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> tuple[Tensor]:
    return (reference.binary_cross_entropy_with_logits.elements(input, target, weight, pos_weight),)
