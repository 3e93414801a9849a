"""Logarithms of probabilities that were picked before the log: −ln (exp(x)/Σ exp(x))[y], −ln Σ_c one_hot·softmax(x).

A pick, or a one-hot row summed over its classes, chooses one probability; its ln is a pick of ln p. Where the quotient
comes after the pick, exp(x)[y] / Σ exp(x), its ln is x[y] − ln Σ exp(x).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xent.inspection._expressions import Elementwise, Expression, Index, Known, Reduced, View, every_place
from xent.inspection._leaves import Picks
from xent.inspection._linear_parts import class_dim_of, is_constant
from xent.inspection._nodes import Edge, Unreadable, kind_of
from xent.inspection._tables import expression_of, logits_behind, operand
from xent.inspection._view_nodes import view_of

_NO_BOUND = 1e-4  # of ln p: an ε in it that moves it further makes another loss


class Chosen(NamedTuple):
    """Elements of a table, by their places in it."""

    table: Expression
    places: Index


def log_of_picked(edge: Edge) -> Picks | None:
    """The pick of ln p that a logarithm is; None if it takes no picked probabilities."""
    try:
        log = expression_of(edge)
    except Unreadable:
        return None
    picked = _before_bounds(edge, log)
    chosen = _chosen(picked, every_place(log.shape)) if isinstance(picked, (View, Reduced)) else None
    if chosen is None:
        return None
    whole = Elementwise("Log", torch.log, (chosen.table,), _logits_of(edge), rounded_to=log.rounded_to)  # type: ignore[attr-defined]
    class_dim = class_dim_of(whole)
    if class_dim is None:
        return None
    places = tuple(part.broadcast_to(log.shape) for part in chosen.places)
    values = whole.at(places)
    if picked is not log.operands[0]:  # type: ignore[attr-defined]
        bounded = log.at(every_place(log.shape))
        if not torch.allclose(bounded, values, rtol=_NO_BOUND, atol=_NO_BOUND):
            return None
        values = bounded
    return Picks(values, whole, class_dim, places)


def _before_bounds(edge: Edge, log: Expression) -> Expression | None:
    """What is picked; of ln(p.clamp(min=ε)) and ln(p + ε), what stands before the bound."""
    at, bounded = edge.operands[0], False
    while at is not None and (kind_of(at).startswith("Clamp") or (kind_of(at) == "Add" and None in at.operands)):
        at, bounded = next((behind for behind in at.operands if behind is not None), None), True
    if not bounded or at is None:
        return log.operands[0] if isinstance(log, Elementwise) else None
    try:
        return expression_of(at)
    except Unreadable:
        return None


def exponents_of(edge: Edge) -> Expression | None:
    """The x of exp(x), or of elements picked from it; None if the edge is no such thing."""
    behind = edge.operands[0] if edge.operands else None
    if behind is None:
        return None
    if kind_of(edge) == "Exp":
        return operand(edge, 0)
    exponents = exponents_of(behind) if view_of(edge, Expression.of_shape(behind.shape)) is not None else None
    return None if exponents is None else view_of(edge, exponents)


def _logits_of(log: Edge) -> Edge | None:
    """What stands behind the probabilities: the way to them leads through views and one constant factor."""
    at: Edge | None = log
    while at is not None and kind_of(at) not in ("Softmax", "Div"):
        ways = [behind for behind in at.operands if behind is not None]
        at = ways[0] if len(ways) == 1 else None
    return logits_behind(at)


def _chosen(expression: Expression, index: Index) -> Chosen | None:
    """Through views and one-hot sums to the probabilities as a whole."""
    if isinstance(expression, View):
        return _chosen(expression.base, expression.to_base(index))
    if isinstance(expression, Reduced):
        return _of_one_hot_sum(expression, index)
    return Chosen(expression, index)


def _of_one_hot_sum(total: Reduced, index: Index) -> Chosen | None:
    product = total.base
    if (
        total.name != "Sum"
        or len(total.dims) != 1
        or not isinstance(product, Elementwise)
        or not product.name.startswith("Mul")
    ):
        return None
    table, factor = product.operands
    if is_constant(table):
        table, factor = factor, table
    (dim,) = total.dims
    classes = _one_hot_classes(factor, product.shape, dim) if table.shape == product.shape else None
    if classes is None:
        return None
    rest = index[:dim] + index[dim + 1 :] if total.keepdim else index
    return _chosen(table, (*rest[:dim], classes[rest] if rest else classes, *rest[dim:]))


def _one_hot_classes(factor: Expression, shape: tuple[int, ...], dim: int) -> Tensor | None:
    """The class of each row of a one-hot factor; None if it is none."""
    if not is_constant(factor) or not isinstance(factor, Known):
        return None
    rows = factor.tensor.broadcast_to(shape).movedim(dim, -1)
    if not bool(((rows == 0) | (rows == 1)).all()) or not bool((rows.sum(-1) == 1).all()):
        return None
    return rows.to(torch.uint8).argmax(-1).cpu()
