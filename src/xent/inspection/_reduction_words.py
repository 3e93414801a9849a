"""How a sum of rows became a number: which reduction, which denominator, which factor."""

from __future__ import annotations

import math
from dataclasses import replace

from xent.inspection._term import Term, exact_sum

_EXACT = 1e-9  # relative; factors were multiplied in float64
_DIGITS = 2  # significant digits of a factor that somebody would type, such as 0.1


def reduced_like(
    term: Term,
    reduction: str | None,
    denominator: float | None = None,
    words: str = "",
    tolerance: float = _EXACT,
    divisor: float | None = None,
) -> Term:
    """The term with its reduction named; `reduction` and `denominator` where the graph says them.

    `tolerance` is relative: a denominator that the graph holds in the loss's dtype was rounded to it. `divisor` is
    what the graph divided a scalar by.
    """
    counted = term.counted
    if not bool(counted.any()):
        if denominator:
            return replace(term, reduction="mean", factor=1.0, denominator=denominator, denominator_words=words)
        reduction = reduction or ("mean" if divisor == 0 else "sum")
        return replace(term, reduction=reduction, factor=1.0, denominator=0.0, denominator_words=counted_words(term))
    upstream = float(term.upstream[counted][0])
    if denominator is not None:
        return _mean(term, denominator, words, upstream, tolerance)
    if reduction == "none":
        return replace(term, reduction="none", factor=_typed(upstream, tolerance), denominator=1.0)
    whole, named = _own_denominator(term)
    if (reduction == "sum" and _is(upstream, 1, tolerance)) or (_is(upstream, 1, _EXACT) and whole != 1):
        return replace(term, reduction="sum", factor=1.0, denominator=1.0)
    if reduction == "mean" or _is(upstream * whole, 1, tolerance):
        return _mean(term, whole, named, upstream, tolerance)
    if _is(upstream, 1, tolerance):
        return replace(term, reduction="sum", factor=1.0, denominator=1.0)
    by_hand = [] if divisor is None else [(divisor, f"{divisor:,.6g}")]
    for count, name in [*_other_denominators(term), *by_hand]:
        if _is(upstream * count, 1, tolerance):
            return _mean(term, count, name, upstream, tolerance)
    if _is_short(upstream * whole, tolerance) and not _is_short(upstream, tolerance):
        return _mean(term, whole, named, upstream, tolerance)
    if _is_short(upstream * whole, tolerance) and _is_whole(1 / upstream, tolerance) and upstream < 1:
        return _mean(term, whole, named, upstream, tolerance)
    if 0 < abs(upstream) < 1 and _is_whole(1 / upstream, tolerance):
        return _mean(term, float(round(1 / upstream)), f"{1 / upstream:,.0f}", upstream, tolerance)
    return replace(term, reduction="sum", factor=_typed(upstream, tolerance), denominator=1.0)


def _own_denominator(term: Term) -> tuple[float, str]:
    """What the mean of torch divides by: the weight of the counted rows, or the number of elements."""
    if term.is_binary:
        return float(term.num_counted), counted_words(term)
    weight = term.weight[term.counted]
    if bool((weight == 1).all()):
        return float(len(weight)), counted_words(term)
    return exact_sum(weight), "Σ weight"


def counted_words(term: Term) -> str:
    """3 rows, or 1 element of a binary loss."""
    noun = "element" if term.is_binary else "row"
    return f"{term.num_counted:,} {noun}{'' if term.num_counted == 1 else 's'}"


def _other_denominators(term: Term) -> list[tuple[float, str]]:
    """Denominators of means by hand."""
    found = [(float(term.num_counted), counted_words(term))]
    if term.num_counted != term.num_rows:
        noun = "elements" if term.is_binary else "rows"
        found.append((float(term.num_rows), f"{term.num_rows:,} {noun}, uncounted ones too"))
    if term.row_shape and term.row_shape[0] != term.num_rows:
        found.append((float(term.row_shape[0]), f"{term.row_shape[0]:,}, the first dimension"))
    return found


def _mean(term: Term, denominator: float, words: str, upstream: float, tolerance: float) -> Term:
    factor = _typed(upstream * denominator, tolerance) if denominator else 1.0
    return replace(term, reduction="mean", factor=factor, denominator=denominator, denominator_words=words)


def _typed(factor: float, tolerance: float) -> float:
    """A factor without what rounding added to it."""
    return without_rounding(factor, tolerance * abs(factor))


def without_rounding(value: float, off: float) -> float:
    """The shortest number, of four digits at most, that is no further off."""
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 5)) if math.isfinite(value) else ()
    return next((short for short in shorter if abs(value - short) <= off), value)


def _is(value: float, wanted: float, tolerance: float) -> bool:
    return abs(value - wanted) <= tolerance * abs(wanted)


def _is_short(value: float, tolerance: float) -> bool:
    return math.isfinite(value) and value != 0 and _is(value, float(f"{value:.{_DIGITS}g}"), tolerance)


def _is_whole(value: float, tolerance: float) -> bool:
    return math.isfinite(value) and 1 <= abs(value) <= 1e12 and _is(value, round(value), tolerance)
