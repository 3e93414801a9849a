"""An element of the graph as a sum of factor · (element of a table): what stands between a pick and ln p.

−(lp · mask)[i, y]   →   factor −mask[i], table lp, place (i, y)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._expressions import Elementwise, Expression, Index, Known, Reduced, View, aligned, unravel
from xent.inspection._leaves import LogProbabilities, leaf_rows

_CHECKED_WHOLE = 1 << 20  # numbers; larger tables are looked at in some rows
_SOME_ROWS = 64


@dataclass(frozen=True, eq=False)
class Part:
    """factor · base[places]; `rounded_to` is the dtype of a cast in between."""

    factor: Tensor
    base: Expression
    places: Index
    rounded_to: torch.dtype | None = None

    def values(self) -> Tensor:
        """The elements of the table."""
        values = self.base.at(self.places)
        return values if self.rounded_to is None else values.to(self.rounded_to).double()


def parts_at(expression: Expression, index: Index) -> list[Part]:
    """The elements at `index` as a sum of parts."""
    one = torch.ones((), dtype=torch.float64)
    return _parts(expression, index, one, None)


def _parts(expression: Expression, index: Index, factor: Tensor, rounded: torch.dtype | None) -> list[Part]:
    if isinstance(expression, View):
        places, rounded = expression.to_base(index), expression.rounded_to or rounded
        found = _parts(expression.base, places, factor, rounded)
        if expression.picks and any(class_dim_of(part.base) is None for part in found):
            base, traced = expression.base.trace(places)  # of logits: x / T is what a log-sum-exp reads too
            return [Part(factor, base, traced, rounded)]
        return found
    if isinstance(expression, Elementwise) and expression.name == "Log" and isinstance(expression.operands[0], View):
        base, places = expression.operands[0].trace(index)  # ln of picked probabilities: a pick of ln p
        whole = Elementwise("Log", torch.log, (base,), rounded_to=expression.rounded_to)
        if class_dim_of(whole) is not None:
            return [Part(factor, whole, places, rounded)]
    if isinstance(expression, Elementwise) and class_dim_of(expression) is None:
        split = _split(expression, index)
        if split is not None:
            return [
                part
                for operand, scale in split
                for part in _parts(operand, aligned(index, operand.shape), factor * scale, rounded)
            ]
    return [Part(factor, expression, index, rounded)]


def _split(expression: Elementwise, index: Index) -> list[tuple[Expression, Tensor | float]] | None:
    """The operands that carry the graph, each with its factor; None if the function is not linear in them."""
    name, operands = expression.name, expression.operands
    if name == "Neg":
        return [(operands[0], -1.0)]
    if name.startswith("Add"):
        return [(operands[0], 1.0), (operands[1], float(name.removeprefix("Add")))]
    if name == "MaskedFill":
        return [(operands[0], 1.0 - operands[1].at(aligned(index, operands[1].shape)))]
    constants = [is_constant(operand) for operand in operands]
    if name.startswith("Mul") and any(constants):
        table, other = (operands[1], operands[0]) if constants[0] else operands
        return [(table, other.at(aligned(index, other.shape)))]
    if name.startswith("Div") and constants[1]:
        return [(operands[0], 1.0 / operands[1].at(aligned(index, operands[1].shape)))]
    return None


def is_constant(expression: Expression) -> bool:
    """Whether the graph saved it as a factor, so that no gradient goes through it."""
    return isinstance(expression, Known) and expression.is_factor


def is_log_softmax(table: Expression) -> bool:
    """Whether a log-softmax made it, kept whole or, by the Triton column, as what it is made of."""
    return isinstance(table, LogProbabilities) or (isinstance(table, Elementwise) and table.name == "LogSoftmax")


def class_dim_of(table: Expression) -> int | None:
    """The dimension over which `table` is normalised log-probabilities; None if it is not."""
    if isinstance(table, LogProbabilities):
        return table.class_dim
    if is_log_softmax(table):
        return len(table.shape) - 1
    if isinstance(table, View) and table.same_places:
        return class_dim_of(table.base)
    if not isinstance(table, Elementwise) or not (table.name == "Log" or table.name.startswith("Add")):
        return None  # a factor times log-probabilities can look normalised, where one class has it all
    if not table.shape or table.numel == 0 or _has_picks(table) or table.of_elements:
        return None
    if not hasattr(table, "_class_dim"):
        dims = range(len(table.shape) - 1, -1, -1)
        table._class_dim = next((dim for dim in dims if is_normalised(table, dim)), None)  # type: ignore[attr-defined]
    return table._class_dim  # type: ignore[attr-defined]


def _has_picks(table: Expression) -> bool:
    if isinstance(table, View):
        return table.picks or _has_picks(table.base)
    if isinstance(table, Reduced):
        return _has_picks(table.base)
    return isinstance(table, Elementwise) and any(_has_picks(operand) for operand in table.operands)


def is_normalised(table: Expression, class_dim: int) -> bool:
    """Whether Σ_c exp is 1 in every row looked at (all of them, if the table is not large)."""
    if table.shape[class_dim] < 2:
        return False
    shape = leaf_rows(table, class_dim)
    count = torch.Size(shape).numel()
    few = count if table.numel <= _CHECKED_WHOLE else min(count, _SOME_ROWS)
    rows = torch.arange(count) if few == count else torch.linspace(0, count - 1, few).long()
    lse = table.rows(unravel(rows, shape), class_dim).logsumexp(-1)
    # ln p rounded to float16 moves Σ p by 2⁻¹⁰ of |ln p|; a table that is none is further off in some row.
    return bool((lse.abs() < 2e-3).all())
