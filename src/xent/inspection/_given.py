"""An explanation from the tensors of a loss, where there is no graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent import functional
from xent.errors import OptionError
from xent.head import Head, HeadRows, head_rows_of
from xent.inspection._equality import Sums, compared, magnitude_of
from xent.inspection._explanation import Explanation
from xent.inspection._leaves import Whole
from xent.inspection._reduction_words import reduced_like
from xent.inspection._row_sources import Elements, binary_rows
from xent.inspection._shown_rows import Names
from xent.inspection._term import Term, exact_sum
from xent.inspection._whole_problems import in_float64, rows_of_problem
from xent.inspection._whole_terms import whole_term
from xent.problem import rows_of
from xent.terms import LossTerms

KINDS = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
_OF_TERMS = (
    "ignore_index", "label_smoothing", "row_weight", "z_loss", "softcap", "logit_scale", "reduction", "normalizer"
)  # fmt: skip


def explained_arguments(
    input: Tensor, target: Tensor, weight: Tensor | None, kind: str, options: dict[str, Any], names: Names
) -> Explanation:
    """The explanation of the loss that xent computes from these arguments."""
    if kind not in KINDS:
        raise OptionError(f"kind={kind!r}", f"it is one of {', '.join(map(repr, KINDS))}", "pass one of these")
    _check_options(kind, options)
    if options.get("linear_weight") is not None:
        return _of_head(input, target, weight, options, names)
    options = {name: value for name, value in options.items() if name not in ("linear_weight", "linear_bias")}
    value = getattr(functional, kind)(input, target, weight, **options)
    if kind.startswith("binary"):
        leaf = _binary_leaf(kind, input, target, weight, options)
        return _explanation(leaf, value, _loss_terms(weight, options), names)
    terms = _loss_terms(weight, options)
    problem = rows_of(input, target, terms, options.get("dim"), options.get("shift", 0))
    if kind == "nll_loss":
        from xent.backends import reference

        leaf = Whole(reference.nll_loss.rows(in_float64(problem))[0].reshape(-1), kind, problem)
        return _explanation(leaf, value, terms, names)
    rows = rows_of_problem(problem)
    return _explanation(Whole(rows.loss, kind, problem, rows.lse), value, terms, names)


def _check_options(kind: str, options: dict[str, Any]) -> None:
    known = {"cross_entropy": {*_OF_TERMS, "dim", "shift", "linear_weight", "linear_bias"}, "nll_loss": {
        "ignore_index", "reduction", "row_weight", "normalizer", "dim", "shift"}}  # fmt: skip
    allowed = known.get(kind, {"reduction", "normalizer"} | ({"pos_weight"} if kind.endswith("logits") else set()))
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise OptionError(
            f"{unknown[0]} for kind={kind!r}", f"its options are {', '.join(sorted(allowed))}", "pass one of these"
        )


def _loss_terms(weight: Tensor | None, options: dict[str, Any]) -> LossTerms:
    chosen = {name: value for name, value in options.items() if name in _OF_TERMS}
    return LossTerms(weight=weight, **chosen)


def _binary_leaf(kind: str, input: Tensor, target: Tensor, weight: Tensor | None, options: dict[str, Any]) -> Whole:
    problem = Elements(input.detach(), target.detach().double(), weight, options.get("pos_weight"))
    return Whole(binary_rows(kind, problem).reshape(-1), kind, problem)


def _of_head(
    input: Tensor, target: Tensor, weight: Tensor | None, options: dict[str, Any], names: Names
) -> Explanation:
    head = Head(options["linear_weight"], options.get("linear_bias"))
    chosen = {name: value for name, value in options.items() if name in (*_OF_TERMS, "dim", "shift", "linear_bias")}
    value, stats = functional.linear_cross_entropy(input, head.weight, target, weight=weight, stats=True, **chosen)
    terms = _loss_terms(weight, options)
    dim = options.get("dim")
    problem: HeadRows = head_rows_of(input, head, target, terms, -1 if dim is None else dim, options.get("shift", 0))
    leaf = Whole(stats.loss.reshape(-1), "linear_cross_entropy", problem, stats.lse.double().reshape(-1))
    return _explanation(leaf, value, terms, names)


def _explanation(leaf: Whole, value: Tensor, terms: LossTerms, names: Names) -> Explanation:
    cost = leaf.values.detach()
    binary = isinstance(leaf.problem, Elements)
    first = whole_term(leaf, torch.ones(len(cost), dtype=torch.float64))
    denominator = _denominator(first, terms, binary)
    upstream = first.counted.double() / (denominator or torch.nan)
    words = "normalizer" if terms.normalizer is not None else ""
    term: Term = replace(first, upstream=upstream)
    given = denominator if terms.reduction == "mean" and terms.normalizer is not None else None
    term = reduced_like(term, terms.reduction, given, words)
    derived = (
        cost.reshape(value.shape)
        if terms.reduction == "none"
        else torch.tensor(_folded(term, denominator), dtype=torch.float64)
    )
    each = terms.reduction == "none"
    size = magnitude_of([leaf], [upstream], each)
    equality = compared(value, derived, Sums(size, 1 if each else len(cost), "xent"))
    return Explanation((term,), (), equality, tuple(value.shape), names=names)


def _folded(term: Term, denominator: float) -> float:
    total = term.total
    if denominator:
        return total / denominator
    return float("nan") if total == 0 else float("inf") * total


def _denominator(term: Term, terms: LossTerms, binary: bool) -> float:
    if terms.reduction != "mean":
        return 1.0
    if terms.normalizer is not None:
        return float(terms.normalizer)
    return float(term.num_rows) if binary else exact_sum(term.weight[term.counted])
