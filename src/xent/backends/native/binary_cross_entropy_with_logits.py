"""Binary cross-entropy of logits, element by element: native/losses/binary_cross_entropy.h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xent.backends.native.machine import empty_gradient, readable


def forward(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Loss of every element; all tensors have the shape of `input`."""
    from xent.backends.native import _kernels

    loss = empty_gradient(input)
    x, t, w, positives, out = _lines(input, target, weight, pos_weight, loss)
    _kernels.binary_cross_entropy(x, t, w, positives, out, torch.get_num_threads())
    return loss


def gradient(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, upstream: Tensor
) -> Tensor:
    """dL/dinput."""
    from xent.backends.native import _kernels

    buffer = empty_gradient(input)
    x, t, w, positives, up, out = _lines(input, target, weight, pos_weight, readable(upstream), buffer)
    _kernels.binary_cross_entropy_gradient(x, t, w, positives, up, out, torch.get_num_threads())
    return buffer


def _lines(*tensors: Tensor | None) -> list[Any]:
    """One long line each where all of them are contiguous, or else a last dimension for the kernels to walk."""
    plain = [None if tensor is None else tensor.detach() for tensor in tensors]
    if all(tensor is None or tensor.is_contiguous() for tensor in plain):
        return [None if tensor is None else tensor.view(1, -1) for tensor in plain]
    return [None if tensor is None else tensor.unsqueeze(0) for tensor in plain]
