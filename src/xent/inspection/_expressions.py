"""Tensors of the graph as expressions that can be read at single places: logits and log-probabilities are never copied.

An index is a tuple of int64 tensors, one for each dimension, that broadcast together. Values are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Index = tuple[Tensor, ...]
_BLOCK = 1 << 21  # numbers in float64 that are made at a time: 16 MiB


class Expression:
    """A tensor of the graph."""

    shape: tuple[int, ...]

    @staticmethod
    def of_shape(shape: tuple[int, ...]) -> Expression:
        """A tensor that nobody reads: only its shape is known."""
        nameless = Expression()
        nameless.shape = shape
        return nameless

    def at(self, index: Index) -> Tensor:
        """Values at `index`, float64."""
        raise NotImplementedError

    def trace(self, index: Index) -> tuple[Expression, Index]:
        """The tensor that is no view, and where `index` lies in it."""
        return self, index

    def rows(self, row_index: Index, class_dim: int) -> Tensor:
        """Rows (n, C) at `row_index` (n,), the index without `class_dim`."""
        classes = torch.arange(self.shape[class_dim])
        index = [part.unsqueeze(-1) for part in row_index]
        index.insert(class_dim, classes)
        return self.at(tuple(index)).broadcast_to(len(row_index[0]) if row_index else 1, len(classes))

    @property
    def key(self) -> Hashable:
        """Equal for expressions that are one tensor."""
        return id(self)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(eq=False)
class Known(Expression):
    """A tensor that the graph, or the caller, holds; `is_factor`: no gradient goes through it."""

    tensor: Tensor
    is_factor: bool = False
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.tensor = self.tensor.detach()
        self.shape = tuple(self.tensor.shape)

    def at(self, index: Index) -> Tensor:
        return self.tensor[tuple(part.to(self.tensor.device) for part in index)].double().cpu()

    def rows(self, row_index: Index, class_dim: int) -> Tensor:
        classes_last = self.tensor.movedim(class_dim, -1)
        if not row_index:
            return classes_last.double().cpu().unsqueeze(0)
        return classes_last[tuple(part.to(self.tensor.device) for part in row_index)].double().cpu()

    @property
    def key(self) -> Hashable:
        tensor = self.tensor
        if self.is_factor and not tensor.ndim:
            return "number", float(tensor)  # x / 2 twice is one table
        return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


@dataclass(eq=False)
class View(Expression):
    """Another arrangement of a tensor: `to_base` maps an index into it to one into `base`."""

    base: Expression
    shape: tuple[int, ...]
    to_base: Callable[[Index], Index]
    rounded_to: torch.dtype | None = None
    same_places: bool = False  # the index is the base's
    picks: bool = False  # some elements were chosen: classes may be missing

    def at(self, index: Index) -> Tensor:
        return self._rounded(self.base.at(self.to_base(index)))

    def trace(self, index: Index) -> tuple[Expression, Index]:
        return self.base.trace(self.to_base(index))

    def rows(self, row_index: Index, class_dim: int) -> Tensor:
        if self.same_places:
            return self._rounded(self.base.rows(row_index, class_dim))
        return super().rows(row_index, class_dim)

    def _rounded(self, values: Tensor) -> Tensor:
        return values if self.rounded_to is None else values.to(self.rounded_to).double()

    @property
    def key(self) -> Hashable:
        return self.base.key if self.same_places else id(self)


@dataclass(eq=False)
class Elementwise(Expression):
    """A function of tensors that broadcast together."""

    name: str
    function: Callable[..., Tensor]
    operands: tuple[Expression, ...]
    behind: object = None  # the edge of the logits, where this is their log-softmax by hand
    of_elements: bool = False  # each element is a probability of its own: no classes
    rounded_to: torch.dtype | None = None  # that of the tensor: each result is rounded as torch rounded it
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(torch.broadcast_shapes(*(operand.shape for operand in self.operands)))

    def at(self, index: Index) -> Tensor:
        return self._rounded(self.function(*(operand.at(aligned(index, operand.shape)) for operand in self.operands)))

    def _rounded(self, values: Tensor) -> Tensor:
        return values if self.rounded_to is None else values.to(self.rounded_to).double()

    def rows(self, row_index: Index, class_dim: int) -> Tensor:
        parts = []
        for operand in self.operands:
            if operand.shape == self.shape:
                parts.append(operand.rows(row_index, class_dim))
            else:
                index = [part.unsqueeze(-1) for part in row_index]
                index.insert(class_dim, torch.arange(self.shape[class_dim]))
                parts.append(operand.at(aligned(tuple(index), operand.shape)))
        count = len(row_index[0]) if row_index else 1
        return self._rounded(self.function(*parts)).broadcast_to(count, self.shape[class_dim])

    @property
    def key(self) -> Hashable:
        return self.name, *(operand.key for operand in self.operands)


@dataclass(eq=False)
class Reduced(Expression):
    """Sums (or log-sum-exps, …) of a tensor over some of its dimensions, kept with size 1 or dropped."""

    name: str
    function: Callable[[Tensor], Tensor]
    base: Expression
    dims: tuple[int, ...]
    keepdim: bool
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        sizes = enumerate(self.base.shape)
        self.shape = tuple(
            1 if dim in self.dims else size for dim, size in sizes if self.keepdim or dim not in self.dims
        )

    def at(self, index: Index) -> Tensor:
        shape = torch.broadcast_shapes(*(part.shape for part in index)) if index else ()
        flat = [part.broadcast_to(shape).reshape(-1) for part in index]
        inner = math.prod(self.base.shape[dim] for dim in self.dims)
        count, step = math.prod(shape), max(1, _BLOCK // max(inner, 1))
        parts = [self._block([part[start : start + step] for part in flat], min(step, count - start), inner)
                 for start in range(0, count, step)]  # fmt: skip
        return (torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)).reshape(shape)

    def _block(self, index: list[Tensor], count: int, inner: int) -> Tensor:
        outer, inside = iter(index), iter(unravel(torch.arange(inner), [self.base.shape[dim] for dim in self.dims]))
        full = []
        for dim in range(len(self.base.shape)):
            if dim in self.dims:
                full.append(next(inside).unsqueeze(0))
                if self.keepdim:
                    next(outer)
            else:
                full.append(next(outer).unsqueeze(-1))
        return self.function(self.base.at(tuple(full)).broadcast_to(count, inner))

    @property
    def key(self) -> Hashable:
        return self.name, self.dims, self.base.key


@dataclass(eq=False)
class Product(Expression):
    """A matrix product and its bias, made only at the places asked for."""

    left: Expression
    right: Expression
    bias: Expression | None
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (self.left.shape[0], self.right.shape[1])

    def at(self, index: Index) -> Tensor:
        row, column = torch.broadcast_tensors(*index)
        features, step = torch.arange(self.left.shape[1]), max(1, _BLOCK // max(self.left.shape[1], 1))
        parts = []
        for some_rows, some_columns in zip(row.reshape(-1).split(step), column.reshape(-1).split(step), strict=True):
            left = self.left.at((some_rows.unsqueeze(-1), features))
            right = self.right.at((features, some_columns.unsqueeze(-1)))
            parts.append((left * right).sum(-1))
        values = torch.cat(parts).reshape(row.shape)
        return values if self.bias is None else values + self.bias.at(aligned(index, self.bias.shape))


def aligned(index: Index, shape: tuple[int, ...]) -> Index:
    """The index of a tensor of `shape` that is broadcast to the indexed one."""
    parts = index[len(index) - len(shape) :]
    first = [part.new_zeros((1,) * part.ndim) for part in parts]  # one, however many: a sum in a row is made once
    return tuple(zero if size == 1 else part for part, zero, size in zip(parts, first, shape, strict=True))


def ravel(index: Index, shape: tuple[int, ...] | list[int]) -> Tensor:
    """Positions in row-major order."""
    flat = torch.zeros((), dtype=torch.int64)
    for part, size in zip(index, shape, strict=True):
        flat = flat * size + part
    return flat


def unravel(flat: Tensor, shape: tuple[int, ...] | list[int]) -> Index:
    """The index of positions in row-major order."""
    parts = []
    for size in reversed(shape):
        parts.append(flat % max(size, 1))
        flat = flat.div(max(size, 1), rounding_mode="floor")
    return tuple(reversed(parts))


def every_place(shape: tuple[int, ...]) -> Index:
    """The index of every element, each part of `shape`."""
    return tuple(part.reshape(shape) for part in unravel(torch.arange(math.prod(shape)), shape))
