"""Sums over the classes of a table, Σ_c q_c ln p_c: probability targets, label smoothing, one-hot rows by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from xent.inspection._expressions import Elementwise, Expression, Known, View, aligned, unravel
from xent.inspection._leaves import ClassSums, Leaf, leaf_rows
from xent.inspection._linear_parts import class_dim_of, is_constant

_BLOCK = 1 << 21  # numbers in float64 at a time: 16 MiB


def blocks(table: Expression, class_dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers (n,) and values (n, C) of some rows after the other; the table is never copied whole."""
    shape = leaf_rows(table, class_dim)
    step = max(1, _BLOCK // max(table.shape[class_dim], 1))
    for rows in torch.arange(torch.Size(shape).numel()).split(step):
        yield rows, table.rows(unravel(rows, shape), class_dim)


def class_sums(take: Callable[[Leaf], Tensor], table: Expression, dims: Sequence[int]) -> Tensor | None:
    """The sum over `dims` of a table, whose classes are among them; None if it is no such table."""
    found = _terms(table, 1.0, [])
    if found is None:
        return None
    total: Tensor | float = 0.0
    for scale, factors, base in found:
        class_dim = _classes_among(base, dims)
        if class_dim is None or base.shape != table.shape:
            return None
        values = take(ClassSums(_values(base, class_dim, factors), base, class_dim, factors))
        total = total + scale * rows_left(values, class_dim, dims)
    return total if isinstance(total, Tensor) else None


def rows_left(values: Tensor, class_dim: int, dims: Sequence[int]) -> Tensor:
    """Values of every row, summed over those of `dims` that are not the classes."""
    rest = [dim - (dim > class_dim) for dim in dims if dim != class_dim]
    return values.sum(rest) if rest else values


def _classes_among(base: Expression, dims: Sequence[int]) -> int | None:
    known = class_dim_of(base)
    if known is None:  # logits: their classes are what is summed over
        return dims[0] if len(dims) == 1 and len(base.shape) > 1 else None
    return known if known in dims else None


def _terms(
    table: Expression, scale: float, factors: list[Expression]
) -> list[tuple[float, list[Expression], Expression]] | None:
    """The table as Σ scale · Π factors · base."""
    if class_dim_of(table) is not None:
        return [(scale, factors, _without_copies(table))]
    if isinstance(table, View):
        return _terms(table.base, scale, factors) if table.same_places else None
    if not isinstance(table, Elementwise):
        return [(scale, factors, table)] if factors else None
    if table.name == "Neg":
        return _terms(table.operands[0], -scale, factors)
    if table.name.startswith(("Mul", "Div")):
        return _of_product(table, scale, factors)
    if table.name == "MaskedFill":
        kept = Elementwise("Kept", lambda hidden: (hidden == 0).double(), (table.operands[1],))
        return _terms(table.operands[0], scale, [*factors, kept])
    return None


def _of_product(
    table: Elementwise, scale: float, factors: list[Expression]
) -> list[tuple[float, list[Expression], Expression]] | None:
    one, other = table.operands
    if is_constant(one) and table.name.startswith("Mul"):
        one, other = other, one
    if not is_constant(other):
        return None
    if table.name.startswith("Div"):
        other = Elementwise("Reciprocal", torch.reciprocal, (other,))
    return _terms(one, scale, [*factors, other])


def _without_copies(table: Expression) -> Expression:
    while isinstance(table, View) and table.same_places and table.rounded_to is None:
        table = table.base
    return table


def _values(base: Expression, class_dim: int, factors: list[Expression]) -> Tensor:
    shape = leaf_rows(base, class_dim)
    if not factors and isinstance(base, Known):
        return base.tensor.sum(class_dim, dtype=torch.float64)
    parts = []
    for rows, values in blocks(base, class_dim):
        product = values
        for factor in factors:
            product = times(product, factor_rows(factor, base.shape, class_dim, rows))
        parts.append(product.sum(-1))
    return torch.cat(parts).reshape(shape) if parts else torch.zeros(shape, dtype=torch.float64)


def times(values: Tensor, factor: Tensor) -> Tensor:
    """Their product as torch has it, 0 · −∞ = NaN included."""
    return values * factor


def factor_rows(factor: Expression, shape: tuple[int, ...], class_dim: int, rows: Tensor) -> Tensor:
    """A factor that broadcasts to a table of `shape`, in some of its rows: (n, C), or (1, C), (n, 1)."""
    index = [part.unsqueeze(-1) for part in unravel(rows, shape[:class_dim] + shape[class_dim + 1 :])]
    index.insert(class_dim, torch.arange(shape[class_dim]).unsqueeze(0))
    return factor.at(aligned(tuple(index), factor.shape))
