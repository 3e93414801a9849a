"""Sums and means of the fold: of rows, and of tables over their classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.inspection._class_sums import blocks, class_sums, factor_rows, rows_left
from xent.inspection._expressions import Elementwise, Expression
from xent.inspection._leaves import DIVERGENCE, ENTROPY, ClassSums, Leaf, Other, leaf_rows
from xent.inspection._linear_parts import is_constant
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed
from xent.inspection._tables import constant, expression_of

if TYPE_CHECKING:
    from xent.inspection._fold import Fold

_ROUNDED = 2e-2  # relative: probabilities rounded to bfloat16, some added up


def reduced(mean: bool) -> Callable[[Fold, Edge], Tensor]:
    """How a sum, or a mean, is made again."""

    def replay(fold: Fold, edge: Edge) -> Tensor:
        behind = edge.operands[0]
        if behind is None:
            raise Unreadable(edge)
        rank = len(behind.shape)
        dims = sorted(signed(dim) % max(rank, 1) for dim in edge.saved("dim") or ()) or list(range(rank))
        count = torch.Size([behind.shape[dim] for dim in dims]).numel()
        share = 1 / max(count, 1) if mean else 1.0
        if not torch.Size(behind.shape).numel():
            share = float("nan") if mean else 1.0
        values = None if fold.has_rows(behind) else _of_table(fold, edge, behind, dims)
        if values is None:
            if mean and edge.shape == ():
                fold.divisors.append(float(count))
            values = fold(behind)
            values = values.sum(dims) if dims else values
        return (values * share).reshape(edge.shape)

    return replay


def _of_table(fold: Fold, edge: Edge, behind: Edge, dims: Sequence[int]) -> Tensor | None:
    try:
        sign, table = _without_constant(fold, behind)
    except Unreadable:
        return None
    taken: list[Leaf] = []

    def take(leaf: Leaf) -> Tensor:
        taken.append(leaf)
        return fold.leaf(leaf)

    values = class_sums(take, table, dims)
    if values is None:
        return _entropies(fold, edge, table, dims)
    leaf = taken[0]
    if sign < 0 and len(taken) == 1 and isinstance(leaf, ClassSums) and leaf.factors:
        fold.divergences += 1
        if fold.as_divergences:
            logarithms = Other(_target_logarithms(leaf), edge, DIVERGENCE)
            return sign * values + rows_left(fold.leaf(logarithms), leaf.class_dim, dims)
    return sign * values


def _without_constant(fold: Fold, edge: Edge) -> tuple[float, Expression]:
    """The table of `table + constant`, `constant − table`, `q · (constant − table)`: no node keeps the constant.

    A Kullback–Leibler divergence is such: Σ q ln q − q ln p, and Σ q · (ln q − ln p) for targets that are logarithms.
    """
    if kind_of(edge) == "Mul" and edge.operands.count(None) == 1 and len(edge.operands) == 2:
        place, behind = _with_graph(edge)
        if kind_of(behind) == "Sub" and behind.operands.count(None) == 1:
            sign, table = _without_constant(fold, behind)
            factor = constant(edge, ("other", "self")[place])
            return sign, Elementwise("Mul", torch.mul, (table, factor))
    if kind_of(edge) not in ("Add", "Sub") or edge.operands.count(None) != 1:
        return 1.0, expression_of(edge)
    fold.added.append(edge)
    place, behind = _with_graph(edge)
    return (-1.0 if place and kind_of(edge) == "Sub" else 1.0), expression_of(behind)


def _with_graph(edge: Edge) -> tuple[int, Edge]:
    return next((place, behind) for place, behind in enumerate(edge.operands) if behind is not None)


def _target_logarithms(leaf: ClassSums) -> Tensor:
    """Σ q ln q of every row, the part of a divergence that no node keeps."""
    parts = []
    for rows, _ in blocks(leaf.base, leaf.class_dim):
        q = torch.ones((), dtype=torch.float64)
        for factor in leaf.factors:
            q = q * factor_rows(factor, leaf.base.shape, leaf.class_dim, rows)
        parts.append(-torch.special.entr(q).broadcast_to(len(rows), leaf.base.shape[leaf.class_dim]).sum(-1))
    return torch.cat(parts).reshape(leaf_rows(leaf.base, leaf.class_dim))


def _entropies(fold: Fold, edge: Edge, table: Expression, dims: Sequence[int]) -> Tensor | None:
    """Σ p ln p over the classes of each row, where p are the probabilities that ln p is the logarithm of."""
    if not isinstance(table, Elementwise) or not table.name.startswith("Mul") or len(table.operands) != 2:
        return None
    one, other = table.operands
    if one.shape != other.shape or is_constant(one) or is_constant(other):
        return None
    for class_dim in dims:
        for p, log_p in ((one, other), (other, one)):
            sums = _sums_of_products(p, log_p, class_dim)
            if sums is not None:
                return -rows_left(fold.leaf(Other(-sums, edge, ENTROPY)), class_dim, dims)
    return None


def _sums_of_products(p: Expression, log_p: Expression, class_dim: int) -> Tensor | None:
    parts = []
    for (_, probabilities), (_, logarithms) in zip(blocks(p, class_dim), blocks(log_p, class_dim), strict=True):
        whole = probabilities.sum(-1)
        if not torch.allclose(whole, torch.ones_like(whole), atol=_ROUNDED):
            return None
        if not torch.allclose(probabilities, logarithms.exp(), rtol=_ROUNDED, atol=1e-3):
            return None
        parts.append((probabilities * logarithms).sum(-1))
    return torch.cat(parts).reshape(leaf_rows(p, class_dim)) if parts else None
