"""Log-softmax over the last dimension: native/losses/log_softmax.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.backends.native.machine import empty_gradient, readable


def forward(input: Tensor) -> Tensor:
    """Log-probabilities (*rows, C), in the dtype and layout of the input."""
    from xent.backends.native import _kernels

    result = empty_gradient(input)
    _kernels.log_softmax(input.detach(), result, torch.get_num_threads())
    return result


def gradient(log_probabilities: Tensor, upstream: Tensor) -> Tensor:
    """dL/dinput from ln p and dL/dln p."""
    from xent.backends.native import _kernels

    buffer = empty_gradient(log_probabilities)
    _kernels.log_softmax_gradient(log_probabilities.detach(), readable(upstream), buffer, torch.get_num_threads())
    return buffer
