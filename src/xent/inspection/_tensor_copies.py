"""Tensors of a training step: copied, compared bit by bit, told apart from what they were."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def copied(tensor: Tensor) -> Tensor:
    """A copy without a graph; sparse ones with each place once."""
    detached = tensor.detach()
    return detached.coalesce().clone() if detached.is_sparse else detached.clone()


def fingerprint(tensor: Tensor) -> tuple[int, ...]:
    """Sums of the bits of all entries and of every second: another number for all but contrived changes, no copy."""
    detached = tensor.detach()
    if detached.is_sparse or not detached.numel():
        return (tensor._version,)
    real = torch.view_as_real(detached) if detached.is_complex() else detached
    bits = real.view(_BITS[real.element_size()]).reshape(-1)
    return int(bits.sum(dtype=torch.int64)), int(bits[::2].sum(dtype=torch.int64))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is NaN."""
    if one is other:
        return True
    if one.shape != other.shape or one.dtype != other.dtype or one.is_sparse != other.is_sparse:
        return False
    if one.is_sparse:
        one, other = one.coalesce(), other.coalesce()
        return torch.equal(one.indices(), other.indices()) and torch.equal(one.values(), other.values())
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def dense_values(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as real ones: those that a sparse one holds, pairs of a complex one."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return torch.view_as_real(values) if values.is_complex() else values


def spacing(size: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of a dtype at numbers of that size, in float64."""
    info = torch.finfo(dtype)
    exact = size.double().abs().clamp(min=info.smallest_normal)
    return torch.exp2(torch.floor(torch.log2(exact))) * info.eps
