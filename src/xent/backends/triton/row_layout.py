"""Where the rows of a strided view lie, in the two strides that a kernel takes.

    row n = outer · num_inner + inner       its memory begins at outer · outer_stride + inner · inner_stride

Contiguous rows are one run of inner rows. (N, C, d1) has its classes in between and needs both; a shifted sequence too.
Dimensions that do not merge into two are copied: a view of three and more gaps, such as every second row of every
second image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowLayout:
    """How the rows of some tensors of one shape are counted.

    Attributes:
        num_outer: how many runs of rows there are.
        num_inner: how many rows a run has.
        strides: for each tensor (outer stride, inner stride, class stride).
    """

    num_outer: int
    num_inner: int
    strides: tuple[tuple[int, int, int], ...]


def in_two_strides(read: tuple[Tensor, ...], written: tuple[Tensor, ...] = ()) -> tuple[tuple[Tensor, ...], RowLayout]:
    """What is read (*rows, C), copied where it must be, and the layout that it shares with what is written.

    A tensor that is written is made by the caller with rows that merge: contiguous, or in the layout of logits that do.
    """
    layout = _layout(read + written)
    if layout is None:
        read = tuple(tensor.contiguous() for tensor in read)
        layout = _layout(read + written)
    if layout is None:
        raise AssertionError("rows that were made contiguous did not merge")
    return read, layout


def empty_gradient(logits: Tensor) -> Tensor:
    """Room for a gradient, in the layout of the logits where that has no gaps or overlaps and fits a kernel."""
    like = torch.empty_like(logits)
    if like.is_contiguous():
        return like
    return like if _layout((like,)) is not None else torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _layout(tensors: tuple[Tensor, ...]) -> RowLayout | None:
    if tensors[0].numel() == 0:  # strides of nothing need not merge
        return RowLayout(0, 0, tuple((0, 0, tensor.stride(-1)) for tensor in tensors))
    groups: list[tuple[int, tuple[int, ...]]] = []
    for dim, size in enumerate(tensors[0].shape[:-1]):
        strides = tuple(tensor.stride(dim) for tensor in tensors)
        if size == 1:
            continue
        if groups and all(outer == inner * size for outer, inner in zip(groups[-1][1], strides, strict=True)):
            groups[-1] = groups[-1][0] * size, strides
        else:
            groups.append((size, strides))
    if len(groups) > 2:
        return None
    nothing = 1, (0,) * len(tensors)
    (num_outer, outer), (num_inner, inner) = [nothing] * (2 - len(groups)) + groups
    class_strides = (tensor.stride(-1) for tensor in tensors)
    return RowLayout(num_outer, num_inner, tuple(zip(outer, inner, class_strides, strict=True)))
