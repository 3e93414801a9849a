"""Log-softmax on the kernels, differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import log_softmax as kernel
from xent.ops.native.again import kernels_may_run, reference_gradient


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Log-probabilities in the dtype of `input`."""
    if input.ndim == 0:
        return reference.log_softmax.log_softmax(input, dim)
    return _LogSoftmax.apply(input.movedim(dim, -1)).movedim(-1, dim)


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        result = kernel.forward(input)
        ctx.save_for_backward(input, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        input, result = ctx.saved_tensors
        if kernels_may_run(*gradients):
            return kernel.gradient(result, gradients[0])
        return reference_gradient(lambda x: (reference.log_softmax.log_softmax(x, -1),), (input,), (True,), gradients)
