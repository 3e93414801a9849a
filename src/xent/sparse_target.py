"""`SparseTarget`: a few probabilities for each row, the rest 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xent.errors import DtypeError, ShapeError


class SparseTarget(NamedTuple):
    """Class probabilities as k pairs of index and probability for each row, such as the top k of a stored teacher.

    The loss is that of the probability target with these entries and 0 elsewhere, which nobody makes. Probabilities of
    one row are taken as they are: they may sum to less than 1 (what a top k leaves out), or to 0; entries of one class
    add up. An entry whose index is `ignore_index` is padding: it counts for nothing, whatever its probability. A row of
    nothing but padding is an ignored row, as for class indices: it counts neither in the sum nor in the mean's
    denominator.

    A tuple, so that `torch.func` and DataLoader's collate function go into it.

    Attributes:
        indices: (*rows, k) class indices of any integer dtype, the entries last whatever the dimension of the classes.
        probabilities: (*rows, k) floating point.

    Example:
        >>> import torch, xent
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> top = xent.SparseTarget(torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]]))
        >>> xent.cross_entropy(logits, top), xent.cross_entropy(logits, torch.tensor([[0.75, 0.0, 0.25]]))
        (tensor(0.9198), tensor(0.9198))
    """

    indices: Tensor
    probabilities: Tensor


def check_sparse(target: SparseTarget, row_shape: tuple[int, ...]) -> None:
    """Raise unless the entries of `target` belong to rows of this shape."""
    indices, probabilities = target
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
        raise DtypeError(
            f"target.indices has dtype {indices.dtype}", "class indices are integers", "pass target.indices.long()"
        )
    if not probabilities.is_floating_point():
        raise DtypeError(
            f"target.probabilities has dtype {probabilities.dtype}",
            "class probabilities are floating point",
            "pass target.probabilities.float()",
        )
    if indices.shape != probabilities.shape:
        raise ShapeError(
            f"target has indices of shape {tuple(indices.shape)} and probabilities of shape "
            f"{tuple(probabilities.shape)}",
            "each index has one probability",
            "pass tensors of one shape",
        )
    if tuple(indices.shape[:-1]) != row_shape or indices.ndim == 0 or indices.shape[-1] == 0:
        raise ShapeError(
            f"target has indices of shape {tuple(indices.shape)} for rows of shape {row_shape}",
            "a sparse target is (*rows, k), the k ≥ 1 entries of a row last",
            "pass the entries in the last dimension, and as many rows as the logits have",
        )


def summed_over_equals(indices: Tensor, values: Tensor) -> Tensor:
    """For each entry the sum of `values` over the entries of its row with the same index, (…, k)."""
    sorted_indices, order = indices.sort(dim=-1, stable=True)
    starts = torch.ones_like(sorted_indices)
    starts[..., 1:] = (sorted_indices[..., 1:] != sorted_indices[..., :-1]).long()
    group = starts.cumsum(-1) - 1
    sums = torch.zeros_like(values).scatter_add(-1, group, values.gather(-1, order)).gather(-1, group)
    return torch.zeros_like(values).scatter(-1, order, sums)
