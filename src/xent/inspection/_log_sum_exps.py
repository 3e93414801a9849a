"""Log-sum-exps, by torch's operation and by hand: ln Σ exp(x), m + ln Σ exp(x − m), and their squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.inspection._class_sums import blocks
from xent.inspection._expressions import Elementwise, Expression
from xent.inspection._leaves import Leaf, LogSumExps
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed
from xent.inspection._picked_probabilities import exponents_of, log_of_picked
from xent.inspection._tables import expression_of, operand

if TYPE_CHECKING:
    from xent.inspection._fold import Fold


def log_of(fold: Fold, edge: Edge) -> Tensor:
    """Ln of a row's number; ln Σ exp over the classes is a log-sum-exp however it is written."""
    behind = edge.operands[0]
    if behind is None:
        raise Unreadable(edge)
    picked = log_of_picked(edge)
    if picked is not None:
        return fold.leaf(picked)
    if not fold.has_rows(behind):
        return fold.elements(expression_of(edge), edge)
    found = _log_of_sum(fold, edge, behind) if kind_of(behind) == "Sum" else _log_of_quotient(fold, edge, behind)
    return fold(behind).log() if found is None else found


def _log_of_sum(fold: Fold, edge: Edge, total: Edge | None) -> Tensor | None:
    """The logarithm at `edge` of Σ exp(x) over the classes; None where the total is another one."""
    terms = total.operands[0] if total is not None and kind_of(total) == "Sum" else None
    if total is None or terms is None or kind_of(terms) != "Exp":
        return None
    logits = operand(terms, 0)
    rank = len(logits.shape)
    dims = [signed(dim) % rank for dim in total.saved("dim") or range(rank)]
    return _log_sum_exp_of(fold, edge, logits, dims[0], bool(total.saved("keepdim"))) if len(dims) == 1 else None


def _log_of_quotient(fold: Fold, edge: Edge, quotient: Edge) -> Tensor | None:
    """Ln (exp(x)[y] / Σ exp(x)) = x[y] − ln Σ exp(x); None where a sum overflowed: the loss is no such number then."""
    if kind_of(quotient) != "Div" or len(quotient.operands) < 2:
        return None
    numerator, divisor = quotient.operands[:2]
    exponents = exponents_of(numerator) if numerator is not None and _divisor_is_finite(quotient) else None
    if exponents is None:
        return None
    subtrahend = _log_of_sum(fold, edge, divisor)
    return None if subtrahend is None else fold.elements(exponents, edge) - subtrahend


def _divisor_is_finite(quotient: Edge) -> bool:
    divisor = quotient.saved("other")
    return isinstance(divisor, Tensor) and bool((divisor.isfinite() & (divisor != 0)).all())


def _log_sum_exp_of(fold: Fold, edge: Edge, logits: Expression, dim: int, keepdim: bool) -> Tensor:
    """logsumexp(x − m) for an m that is one number in a row is logsumexp(x) − m."""
    if isinstance(logits, Elementwise) and logits.name == "Add-1.0":
        table, shift = logits.operands
        if len(shift.shape) == len(table.shape) and shift.shape[dim] == 1:
            shift_values = fold.elements(shift, edge)
            shift_values = shift_values if keepdim else shift_values.squeeze(dim)
            return _log_sum_exp_of(fold, edge, table, dim, keepdim) - shift_values
    return fold.leaf(LogSumExps(_values_of(logits, dim, keepdim), logits, dim))


def _values_of(logits: Expression, dim: int, keepdim: bool) -> Tensor:
    parts = [rows.logsumexp(-1) for _, rows in blocks(logits, dim)]
    shape = list(logits.shape)
    shape[dim : dim + 1] = [1] if keepdim else []
    return torch.cat(parts).reshape(shape)


def log_sum_exp(fold: Fold, edge: Edge) -> Tensor:
    behind, dims = edge.operands[0], edge.saved("dim")
    if behind is None or len(dims) != 1:
        raise Unreadable(edge)
    if fold.has_rows(behind):
        return fold(behind).logsumexp(signed(dims[0]), bool(edge.saved("keepdim")))
    logits = operand(edge, 0, "self")
    dim = signed(dims[0]) % len(logits.shape)
    return fold.leaf(LogSumExps(_values_of(logits, dim, bool(edge.saved("keepdim"))), logits, dim))


def power(fold: Fold, edge: Edge) -> Tensor:
    behind, exponent = edge.operands[0], edge.saved("exponent")
    if behind is None or any(each is not None for each in edge.operands[1:]) or edge.name.endswith("2"):
        raise Unreadable(edge)  # a power of a number, or one whose exponent is learnt
    values = fold(behind)
    if isinstance(exponent, Tensor) and exponent.numel() != 1:
        return values ** exponent.detach().double().cpu()
    exponent = float(exponent)
    lse = next((leaf for leaf in fold.leaves if _is_lse(leaf, values)), None) if exponent == 2 else None
    if isinstance(lse, LogSumExps):
        squared = LogSumExps(lse.values.square(), lse.base, lse.class_dim, squared=True)
        return fold.leaf(squared).reshape(values.shape)
    return values**exponent


def _is_lse(leaf: Leaf, values: Tensor) -> bool:
    same = isinstance(leaf, LogSumExps) and not leaf.squared and leaf.values.numel() == values.numel()
    return same and torch.equal(leaf.values.reshape(-1), values.reshape(-1))
