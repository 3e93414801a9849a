"""The fold of a loss made again, in float64, from the leaves of its graph to the scalar.

Every operation between the rows and the loss is one line of `_REPLAYS`. What is no row yet, a table of logits or
log-probabilities, is met by the operation that reads it: a pick, a sum over classes, a log-sum-exp, a loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xent.inspection._expressions import Expression, every_place
from xent.inspection._leaves import ClassSums, Leaf, Other, Picks
from xent.inspection._linear_parts import class_dim_of, parts_at
from xent.inspection._log_sum_exps import log_of, log_sum_exp, power
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed
from xent.inspection._reductions import reduced
from xent.inspection._row_operations import ROW_OPERATIONS, on_rows
from xent.inspection._row_sources import source_of
from xent.inspection._tables import expression_of
from xent.inspection._view_nodes import view_of

_LARGEST = 1 << 22  # elements that are listed one by one
_CHAINED = ("Add", "Sub", "Mul", "Div", "Neg")
_REDUCTIONS = ("Sum", "Mean", "Logsumexp")
_MAY_MAKE_TABLES = ("Log", "Sub", "Add")  # the last step of a log-softmax by hand
_BETWEEN = (*_MAY_MAKE_TABLES, "Neg", "Mul", "Div", "Pow", "Exp", "MaskedFill", "Where", "Stack", "Cat", "CopySlices",
            *ROW_OPERATIONS)  # fmt: skip


class Fold:
    """Reads one graph.

    Attributes:
        leaves: what was found at its end.
        added: nodes that added something without a graph, which no node keeps.
        unread: addends that could not be read, with the reason.
        divisors: numbers that scalars were divided by.
        additions: additions one after the other, each of which torch rounds.
        held: operands with a graph that could not be read, taken as the numbers that their node saved.
        divergences: sums over classes to which a constant was added, as in a Kullback–Leibler divergence.
        as_divergences: whether these constants are taken for Σ q ln q, which makes them divergences.
        coarsest: the dtype with the fewest digits that a row or a sum of rows went through.
    """

    def __init__(self, dtype: torch.dtype, as_divergences: bool = False) -> None:
        self.coarsest, self.as_divergences, self.divergences = dtype, as_divergences, 0
        self.leaves: list[Leaf] = []
        self.added: list[Edge] = []
        self.unread: list[Unreadable] = []
        self.divisors: list[float] = []
        self.additions = 0
        self.held = 0
        self._known: dict[tuple[int, int], Tensor] = {}
        self._has_rows: dict[tuple[int, int], bool] = {}

    def leaf(self, leaf: Leaf) -> Tensor:
        """Take a leaf in; its values."""
        self.leaves.append(leaf)
        return leaf.values

    def __call__(self, edge: Edge) -> Tensor:
        """The tensor at `edge`, a float64 function of the leaves."""
        if edge.key not in self._known:
            self._known[edge.key] = self._read(edge)
        return self._known[edge.key]

    def whole(self, edge: Edge) -> Tensor:
        """The tensor at the end of the graph; a long chain of additions (the steps of a loop) from its start."""
        chain, at = [], edge
        while kind_of(at) in _CHAINED and at.operands and at.operands[0] is not None:
            chain.append(at)
            at = at.operands[0]
        for link in reversed(chain):
            if kind_of(link) == "Add" and link.shape == ():
                self(link)
        return self(edge)

    def went_through(self, dtype: torch.dtype) -> None:
        """Rows, or numbers that they are made of, were rounded to `dtype`."""
        if dtype.is_floating_point:
            self.coarsest = max(self.coarsest, dtype, key=lambda one: torch.finfo(one).eps)

    def mark(self) -> tuple[int, int]:
        """Where the reading stands, for `back_to`."""
        return len(self.leaves), len(self._known)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Forget what was read since `mark`, for an operand that could not be read to its end."""
        del self.leaves[mark[0] :]
        for key in list(self._known)[mark[1] :]:
            del self._known[key]

    def remember(self, edge: Edge, values: Tensor) -> None:
        """The tensor at `edge` is a leaf's."""
        self._known[edge.key] = values

    def _read(self, edge: Edge) -> Tensor:
        if edge.name != "AccumulateGrad":
            self.went_through(edge.dtype)
        source = source_of(edge)
        if source is not None:
            return source(self, edge)
        replay = _REPLAYS.get(kind_of(edge))
        if replay is not None:
            return replay(self, edge)
        if edge.operands and edge.operands[0] is not None and self.has_rows(edge.operands[0]):
            return self._viewed(edge, edge.operands[0])
        return self.elements(expression_of(edge), edge)

    def _viewed(self, edge: Edge, behind: Edge) -> Tensor:
        values = self(behind)
        view = view_of(edge, Expression.of_shape(tuple(values.shape)))
        if view is None:
            raise Unreadable(edge)
        return values[view.to_base(every_place(edge.shape))]

    def elements(self, expression: Expression, edge: Edge) -> Tensor:
        """Every element of a table, or of picks from one."""
        if expression.numel > _LARGEST:
            raise Unreadable(edge, "its elements are too many to be listed")
        places = every_place(expression.shape)
        total = torch.zeros(expression.shape, dtype=torch.float64)
        for part in parts_at(expression, places):
            if part.base.numel <= 1 or not part.base.shape:
                total = total + part.factor * self.leaf(Other(part.values(), edge))
                continue
            spread = tuple(place.broadcast_to(expression.shape) for place in part.places)
            leaf = Picks(part.values().broadcast_to(expression.shape), part.base, _class_dim(part.base), spread)
            total = total + part.factor * self.leaf(leaf)
        return total

    def has_rows(self, edge: Edge) -> bool:
        """Whether a loss or a reduction stands at or close behind `edge`, so that it is no table."""
        if edge.key not in self._has_rows:
            self._has_rows[edge.key] = self._finds_rows(edge)
        return self._has_rows[edge.key]

    def _finds_rows(self, edge: Edge) -> bool:
        kind = kind_of(edge)
        if source_of(edge) is not None or kind in _REDUCTIONS:
            return True
        if kind not in _BETWEEN and view_of_nothing(edge) is None:
            return False  # a layer: the losses are not behind it
        if kind in _MAY_MAKE_TABLES and class_dim_of_edge(edge) is not None:
            return False
        return any(self.has_rows(behind) for behind in edge.operands if behind is not None)


def view_of_nothing(edge: Edge) -> Expression | None:
    """Whether the node is a view: of a tensor that nobody reads."""
    behind = edge.operands[0] if edge.operands else None
    return None if behind is None else view_of(edge, Expression.of_shape(behind.shape))


def class_dim_of_edge(edge: Edge) -> int | None:
    """The dimension of the classes, if the edge is normalised log-probabilities."""
    if max(edge.shape, default=0) < 2:
        return None
    try:
        return class_dim_of(expression_of(edge))
    except Unreadable:
        return None


def _class_dim(base: Expression) -> int:
    known = class_dim_of(base)
    return min(1, len(base.shape) - 1) if known is None else known


def _operand(fold: Fold, edge: Edge, place: int, name: str) -> Tensor:
    """An operand with its way to the leaves, or the number that the node saved of it."""
    operands = edge.operands
    behind = operands[place] if place < len(operands) else None
    if behind is not None:
        mark = fold.mark()
        try:
            return fold(behind)
        except Unreadable:
            if not isinstance(edge.saved(name), Tensor):
                raise
            fold.back_to(mark)
            fold.held += 1
    return operand_value(edge, name)


def operand_value(edge: Edge, name: str) -> Tensor:
    """The number or tensor that a node saved."""
    value = edge.saved(name)
    if value is None:
        raise Unreadable(edge, "it took a tensor without a graph and did not keep it")
    if isinstance(value, Tensor):
        return value.detach().double().cpu()
    return torch.tensor(float(value), dtype=torch.float64)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Fold, Edge], Tensor]:
    def replay(fold: Fold, edge: Edge) -> Tensor:
        behind = edge.operands[0]
        if behind is None:
            raise Unreadable(edge)
        return function(fold(behind))

    return replay


def _table(fold: Fold, edge: Edge) -> bool:
    """Whether the edge is a table as a whole: elementwise on logits, nothing reduced or picked."""
    return not fold.has_rows(edge) and class_dim_of_edge(edge) is not None


def _added(sign: int) -> Callable[[Fold, Edge], Tensor]:
    def replay(fold: Fold, edge: Edge) -> Tensor:
        if _table(fold, edge):
            return fold.elements(expression_of(edge), edge)
        fold.additions += 1
        alpha = sign * float(edge.saved("alpha") or 1)
        one, other = (_addend(fold, edge, place) for place in (0, 1))
        return (one + alpha * other).broadcast_to(edge.shape)

    return replay


def _addend(fold: Fold, edge: Edge, place: int) -> Tensor:
    behind = edge.operands[place] if place < len(edge.operands) else None
    if behind is None:  # `loss + 3`: the node keeps no constant; the comparison with the tensor shows what it was
        fold.added.append(edge)
        return torch.zeros((), dtype=torch.float64)
    if kind_of(behind) == "Rsub" and edge.shape == ():  # `total = 0.0; total = total - …`
        fold.added.append(behind)
        return -float(behind.saved("alpha") or 1) * _addend(fold, behind, 0)
    mark = fold.mark()
    try:
        return _alone(fold, behind, mark[0])
    except Unreadable as reason:
        if edge.shape != ():
            raise
        fold.back_to(mark)
        fold.unread.append(reason)
        return torch.zeros((), dtype=torch.float64)


def _alone(fold: Fold, edge: Edge, before: int) -> Tensor:
    """A scalar addend; one that is no sum of its leaves (a squared norm) is one number, if no loss is in it."""
    value = fold(edge)
    own, known = fold.leaves[before:], fold.leaves  # an earlier addend may have read some of what this one takes
    if edge.shape != () or not own or any(_is_loss(leaf) for leaf in own) or not value.requires_grad:
        return value
    factors = torch.autograd.grad(value, [leaf.values for leaf in known], retain_graph=True, allow_unused=True)
    linear = sum(float((leaf.values * factor).sum().detach()) for leaf, factor in zip(known, factors, strict=True)
                 if factor is not None)  # fmt: skip
    if abs(linear - float(value.detach())) <= 1e-9 * abs(float(value.detach())):
        return value
    named = {leaf.written for leaf in own if isinstance(leaf, Other)}
    written = f"a function of the {named.pop()}" if len(named) == 1 and "" not in named else ""
    fold.leaves[before:] = [Other(value.detach(), edge, written)]
    fold.remember(edge, fold.leaves[-1].values)
    return fold.leaves[-1].values


def _is_loss(leaf: Leaf) -> bool:
    if isinstance(leaf, (Picks, ClassSums)):
        return class_dim_of(leaf.base) is not None
    return not isinstance(leaf, Other)


def _joined(fold: Fold, edge: Edge) -> Tensor:
    if any(behind is None for behind in edge.operands):
        raise Unreadable(edge, "one of its tensors has no graph")
    parts = [fold(behind) for behind in edge.operands if behind is not None]
    dim = signed(edge.saved("dim"))
    return torch.stack(parts, dim) if kind_of(edge) == "Stack" else torch.cat(parts, dim)


def _masked_fill(fold: Fold, edge: Edge) -> Tensor:
    behind, mask = edge.operands[0], edge.saved("mask").cpu()
    if behind is None:
        raise Unreadable(edge)
    return fold(behind).masked_fill(mask, 0.0)


def _where(fold: Fold, edge: Edge) -> Tensor:
    condition = edge.saved("condition").cpu()
    one, other = (
        torch.zeros((), dtype=torch.float64) if behind is None else fold(behind) for behind in edge.operands[-2:]
    )
    return torch.where(condition, one, other).broadcast_to(edge.shape)


def _written_into(fold: Fold, edge: Edge) -> Tensor:
    """`losses[i] = …` in a loop: no node says where a value was written, so they stand in the order of writing.

    Only where as many were written as there are places; a sum or mean does not depend on their order.
    """
    written: list[Edge] = []
    at: Edge | None = edge
    while at is not None and kind_of(at) == "CopySlices":
        base, *values = at.operands
        written = [value for value in values if value is not None] + written
        at = base
    flat = torch.cat([fold(value).reshape(-1) for value in written])
    if at is not None or flat.numel() != torch.Size(edge.shape).numel():
        raise Unreadable(edge, f"{flat.numel()} values were written into {edge.shape} places")
    return flat.reshape(edge.shape)


def _multiplied(fold: Fold, edge: Edge) -> Tensor:
    if _table(fold, edge):
        return fold.elements(expression_of(edge), edge)
    one, other = (_factor(fold, edge, place, name) for place, name in enumerate(("self", "other")))
    return one * other


def _divided(fold: Fold, edge: Edge) -> Tensor:
    if _table(fold, edge):
        return fold.elements(expression_of(edge), edge)
    one, other = (_factor(fold, edge, place, name) for place, name in enumerate(("self", "other")))
    if edge.shape == () and other.numel() == 1 and not other.requires_grad:
        fold.divisors.append(float(other))
    return one / other


def _factor(fold: Fold, edge: Edge, place: int, name: str) -> Tensor:
    """An operand of a product; a learned number that a loss is multiplied by is held: no row is in it."""
    value, operands = _operand(fold, edge, place, name), edge.operands
    of_rows = [behind is not None and fold.has_rows(behind) for behind in operands]
    is_number = value.numel() == 1 and place < len(operands) and not of_rows[place] and any(of_rows)
    return value.detach() if is_number else value


_REPLAYS: dict[str, Callable[[Fold, Edge], Tensor]] = {
    "Neg": _unary(torch.neg),
    "Add": _added(1),
    "Sub": _added(-1),
    "Mul": _multiplied,
    "Div": _divided,
    "Sum": reduced(mean=False),
    "Mean": reduced(mean=True),
    "MaskedFill": _masked_fill,
    "Where": _where,
    "Stack": _joined,
    "Cat": _joined,
    "CopySlices": _written_into,
    "Logsumexp": log_sum_exp,
    "Pow": power,
    "Log": log_of,
    "Exp": _unary(torch.exp),
    **{kind: on_rows(operation) for kind, operation in ROW_OPERATIONS.items()},
    "Sqrt": _unary(torch.sqrt),
    "Rsqrt": _unary(torch.rsqrt),
    "Abs": _unary(torch.abs),
}
