"""The leaves that read one table, and all that was picked from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xent.inspection._expressions import Expression
from xent.inspection._leaves import ClassSums, Leaf, LogSumExps, Picks, leaf_rows
from xent.inspection._linear_parts import class_dim_of


@dataclass(frozen=True)
class HowReduced:
    """What the graph says of the reduction as a whole.

    Attributes:
        dtype: the loss's.
        scalar: whether it is one number.
        divisor: what a scalar was divided by, if one was once.
    """

    dtype: torch.dtype
    scalar: bool
    divisor: float | None

    @property
    def tolerance(self) -> float:
        """Relative; factors that the graph holds were rounded to the loss's dtype."""
        return 1e-9 if self.dtype == torch.float64 else 2 * torch.finfo(self.dtype).eps


@dataclass(eq=False)
class Group:
    """The leaves that read one table, each with its factors, flat."""

    base: Expression
    tolerance: float
    divisor: float | None = None
    scalar: bool = True
    place: int = 0
    picks: list[tuple[Picks, Tensor]] = field(default_factory=list)
    sums: list[tuple[ClassSums, Tensor]] = field(default_factory=list)
    lses: list[tuple[LogSumExps, Tensor]] = field(default_factory=list)

    @property
    def class_dim(self) -> int:
        known = class_dim_of(self.base)
        if known is not None:
            return known
        for leaf, _ in (*self.lses, *self.sums, *self.picks):
            return leaf.class_dim
        raise AssertionError("a group has a leaf")


def scores_rows(group: Group) -> int:
    """Number of rows of the table."""
    return torch.Size(leaf_rows(group.base, group.class_dim)).numel()


def per_row(members: Sequence[tuple[Leaf, Tensor]], count: int) -> Tensor | None:
    """The factors of all leaves with one value in each row, added."""
    total = torch.zeros(count, dtype=torch.float64)
    for _, factor in members:
        if len(factor) != count:
            return None
        total = total + factor
    return total


@dataclass(frozen=True, eq=False)
class Picked:
    """All picks of a group, one after the other, flat."""

    rows: Tensor
    classes: Tensor
    factor: Tensor
    values: Tensor
    counted: Tensor
    weight: Tensor
    shape: tuple[int, ...]
    first: Picks


def picked_of(group: Group) -> Picked:
    shape, parts = leaf_rows(group.base, group.class_dim), []
    for leaf, factor in group.picks:
        places = [place.reshape(-1) for place in leaf.places]
        places = [place.expand(len(factor)) if len(place) != len(factor) else place for place in places]
        classes = places.pop(group.class_dim)
        rows = torch.zeros(len(factor), dtype=torch.int64)
        for place, size in zip(places, shape, strict=True):
            rows = rows * size + place
        counted = torch.ones(len(factor), dtype=torch.bool) if leaf.counted is None else leaf.counted.reshape(-1)
        weight = torch.ones(len(factor), dtype=torch.float64) if leaf.weight is None else leaf.weight.reshape(-1)
        values = leaf.values.detach().reshape(-1)
        keep = torch.ones_like(counted) if leaf.counted is not None else factor != 0
        if leaf.counted is None and len(factor) <= len(rows.unique()):  # rows masked by hand are shown as such
            keep, counted = torch.ones_like(counted), counted & (factor != 0)
        parts.append(tuple(part[keep] for part in (rows, classes, factor, values, counted, weight)))
    joined = [torch.cat(column) for column in zip(*parts, strict=True)]
    first = group.picks[0][0]
    seen = tuple(size for size in first.values.shape if size != 1) or (len(joined[0]),)
    seen = seen if torch.Size(seen).numel() == len(joined[0]) else (len(joined[0]),)
    return Picked(*joined, seen, first)  # type: ignore[arg-type]
