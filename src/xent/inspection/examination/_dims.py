"""Which dim of an operand became which dim of a view."""

from __future__ import annotations

from itertools import accumulate
from operator import mul
from typing import Any

from torch import Tensor

from xent.inspection._nodes import Edge, signed

Dims = list[int | None]


def dims_below(edge: Edge, kind: str, below: tuple[int, ...]) -> Dims:
    """For each dim of the edge's tensor, the dim of its operand (of shape `below`); None where it is mixed or new."""
    shape, rank = edge.shape, len(below)
    if kind in ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Unflatten"):
        return reshaped(below, shape)
    if kind == "Permute":
        return [signed(dim) % rank for dim in _saved(edge, "dims")]
    if kind in ("Transpose", "T"):
        return _swapped(edge, kind, rank)
    if kind in ("Select", "Unbind"):
        dim = signed(_saved(edge, "dim")) % rank
        return [place for place in range(rank) if place != dim]
    if kind == "Expand":
        return [None] * (len(shape) - rank) + list(range(rank))
    if kind == "Index":
        return _indexed(edge, rank, len(shape))
    if kind in ("MaskedSelect", "Diagonal", "AsStrided"):
        return [None] * len(shape)
    return list(range(len(shape))) if len(shape) == rank else [None] * len(shape)


def reshaped(below: tuple[int, ...], shape: tuple[int, ...]) -> Dims:
    """A view keeps a dim if as many elements stand before it and as many in it."""
    before_of = list(accumulate(below, mul, initial=1))
    places = {(before_of[dim], size): dim for dim, size in reversed(list(enumerate(below)))}
    found: Dims = []
    for before, size in zip(accumulate(shape, mul, initial=1), shape, strict=False):
        found.append(places.get((before, size)) if size != 1 else None)
    return found


def _swapped(edge: Edge, kind: str, rank: int) -> Dims:
    dims: Dims = list(range(rank))
    if rank < 2:
        return dims
    one, other = (0, 1) if kind == "T" else (signed(_saved(edge, name)) % rank for name in ("dim0", "dim1"))
    dims[one], dims[other] = dims[other], dims[one]
    return dims


def _indexed(edge: Edge, rank: int, result: int) -> Dims:
    """Torch's (numpy's) rule: the dims of the index tensors stand in their place if adjacent, else in front."""
    given: list[Tensor | None] = list(_saved(edge, "indices") or ())
    taken: list[int] = []
    dim = 0
    for part in given:
        width = part.ndim if part is not None and str(part.dtype) in ("torch.bool", "torch.uint8") else 1
        taken += [] if part is None else list(range(dim, dim + width))
        dim += width
    kept = [dim for dim in range(rank) if dim not in taken]
    new = result - len(kept)
    first = taken[0] if taken and taken == list(range(taken[0], taken[0] + len(taken))) else 0
    chosen: Dims = [taken[0]] if new == 1 and len(taken) == 1 else [None] * new
    return [*kept[:first], *chosen, *kept[first:]]


def _saved(edge: Edge, name: str) -> Any:
    from xent.inspection.examination._provenance import saved

    return saved(edge, name)
