"""What else is done to rows on their way to a value: some chosen, capped, weighted by a product, summed in groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.inspection._nodes import Edge, Unreadable, signed
from xent.inspection._tables import expression_of

if TYPE_CHECKING:
    from xent.inspection._fold import Fold


def on_rows(operation: Callable[[Fold, Edge], Tensor]) -> Callable[[Fold, Edge], Tensor]:
    """The operation on rows; where it is one on a table (the maximum of each row's logits), the table's elements."""

    def replay(fold: Fold, edge: Edge) -> Tensor:
        if not any(fold.has_rows(behind) for behind in edge.operands if behind is not None):
            try:
                return fold.elements(expression_of(edge), edge)
            except Unreadable:
                pass
        return operation(fold, edge)

    return replay


def rows_behind(fold: Fold, edge: Edge, place: int = 0) -> Tensor:
    """The operand at `place`."""
    operands = edge.operands
    behind = operands[place] if place < len(operands) else None
    if behind is None:
        raise Unreadable(edge, "it took a tensor without a graph and did not keep it")
    return fold(behind)


def sorted_rows(fold: Fold, edge: Edge) -> Tensor:
    """`topk`, `sort`: hard examples alone."""
    rows = rows_behind(fold, edge)
    return rows.gather(signed(edge.saved("dim")), edge.saved("indices").cpu()) if rows.ndim else rows


def extreme(fold: Fold, edge: Edge) -> Tensor:
    """`max`, `min`, of all rows or along a dimension."""
    rows, is_max = rows_behind(fold, edge), edge.name.startswith("Max")
    indices, dim = edge.saved("indices"), edge.saved("dim")
    if indices is None:
        return rows.max() if is_max else rows.min()
    if not rows.ndim:
        return rows
    picked = indices.cpu() if bool(edge.saved("keepdim")) else indices.cpu().unsqueeze(signed(dim))
    return rows.gather(signed(dim), picked).reshape(edge.shape)


def clamped(fold: Fold, edge: Edge) -> Tensor:
    """Rows of which none counts more, or less, than a bound."""
    bounds = {name: _bound(edge.saved(name)) for name in ("min", "max")}
    if all(bound is None for bound in bounds.values()):
        raise Unreadable(edge, "it did not keep its bounds")
    return rows_behind(fold, edge).clamp(**bounds)


def _bound(value: Any) -> Tensor | None:
    return None if value is None else torch.as_tensor(value).detach().double().cpu()


def dot(fold: Fold, edge: Edge) -> Tensor:
    """Rows times their weights, added up: `losses @ weights`, in either order."""
    operands = edge.operands
    place = next(place for place, behind in enumerate(operands) if behind is not None)
    other = edge.saved(("tensor", "self")[place])
    if all(behind is not None for behind in operands) or other is None:
        raise Unreadable(edge, "both of its tensors have a graph")
    return rows_behind(fold, edge, place) @ other.detach().double().cpu()


def groups_added(fold: Fold, edge: Edge) -> Tensor:
    """`scatter_add`, `index_add` into zeros: sums of each document, of each sample."""
    index, dim = edge.saved("index").cpu(), signed(edge.saved("dim"))
    rows, whole = rows_behind(fold, edge, 1), torch.zeros(edge.shape, dtype=torch.float64)
    if edge.operands[0] is not None:
        whole = fold(edge.operands[0])
    if edge.name.startswith("ScatterAdd"):
        return whole.scatter_add(dim, index, rows)
    return whole.index_add(dim, index, rows, alpha=float(edge.saved("alpha") or 1))


ROW_OPERATIONS: dict[str, Callable[[Fold, Edge], Tensor]] = {
    "Topk": sorted_rows,
    "Sort": sorted_rows,
    "Max": extreme,
    "Min": extreme,
    "Clamp": clamped,
    "ClampMin": clamped,
    "ClampMax": clamped,
    "Dot": dot,
    "ScatterAdd": groups_added,
    "IndexAdd": groups_added,
}
