"""From leaves and the factors with which they enter a value to terms: one for each loss that a reader would name.

picks                            class indices
picks + sums over the classes    label smoothing:  (1 − ε)·(−ln p_y) + ε/C·Σ(−ln p_c)
sums over the classes            probabilities
log-sum-exps − picks of logits   the same without a log-softmax
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xent.inspection._binary_by_hand import logarithms_of, pairs_of, term_by_hand
from xent.inspection._groups import Group, HowReduced, Picked, per_row, picked_of, scores_rows
from xent.inspection._join import joined
from xent.inspection._leaves import ClassSums, Leaf, LogSumExps, Other, Picks, Whole, leaf_rows
from xent.inspection._linear_parts import class_dim_of, is_log_softmax
from xent.inspection._nodes import Edge, kind_of
from xent.inspection._reduction_words import reduced_like
from xent.inspection._scores import LogitScores, Scores, TableScores
from xent.inspection._smoothing import quotient, smoothing_of, weight_of_sums
from xent.inspection._soft_targets import SoftTargets, soft_targets
from xent.inspection._term import Term, exact_sum
from xent.inspection._whole_terms import whole_term
from xent.terms import LossTerms


@dataclass(frozen=True, eq=False)
class Rest:
    """A part of the value that is no cross-entropy, or none that could be made out: its value alone."""

    written: str
    value: float


def merged(leaves: Sequence[Leaf], factors: Sequence[Tensor], how: HowReduced) -> tuple[list[Term], list[Rest]]:
    """Terms and rests; their values add up to the value, if the fold is linear."""
    tolerance = how.tolerance
    terms: list[Term] = []
    rests: list[Rest] = []
    places: dict[int, int] = {}  # of terms, in the order of the graph: that of the loss as it was written
    groups: dict[Hashable, Group] = {}
    for place, (leaf, factor) in enumerate(zip(leaves, factors, strict=True)):
        flat = factor.reshape(-1)
        if isinstance(leaf, Whole):
            reduction = reduction_of(leaf.reduction, how.scalar)
            terms.append(whole_term(leaf, flat, reduction, tolerance, how.divisor))
            places[id(terms[-1])] = place
        elif isinstance(leaf, LogSumExps) and leaf.squared:
            rests.append(_rest("logsumexp²", leaf, flat))
        elif isinstance(leaf, (Picks, ClassSums, LogSumExps)):
            group = groups.setdefault(leaf.base.key, Group(leaf.base, tolerance, how.divisor, how.scalar, place))
            chosen = {Picks: group.picks, ClassSums: group.sums, LogSumExps: group.lses}[type(leaf)]
            chosen.append((leaf, flat))  # type: ignore[arg-type]
        elif isinstance(leaf, Other) and bool((flat != 0).any()):
            rests.append(_rest(leaf.written or _name_of(leaf.edge), leaf, flat))
    for place, term in _binary_terms(groups, tolerance):
        terms.append(term)
        places[id(term)] = place
    for group in groups.values():
        term = _term_of(group)
        if term is not None:
            terms.append(term)
            places[id(term)] = group.place
        else:
            rests.extend(_rests_of(group))
    terms.sort(key=lambda term: places[id(term)])
    return joined(terms), rests


def _binary_terms(groups: dict[Hashable, Group], tolerance: float) -> list[tuple[int, Term]]:
    """Places and terms of pairs of logarithms; their groups are taken out."""
    found = {key: logarithms_of(group.base, group.picks) for key, group in groups.items()}
    known = {key: logarithms for key, logarithms in found.items() if logarithms is not None}
    terms = []
    for one, other in pairs_of(known):
        term = term_by_hand(known[one], known[other], tolerance)
        if term is not None:
            terms.append((groups[one].place, term))
            del groups[one], groups[other]
    return terms


def _name_of(edge: Edge) -> str:
    return "a tensor without a graph behind it" if kind_of(edge) == "AccumulateGrad" else kind_of(edge)


def _rest(written: str, leaf: Leaf, factor: Tensor) -> Rest:
    return Rest(written, exact_sum((leaf.values.detach().reshape(-1) * factor)[factor != 0]))


def _rests_of(group: Group) -> list[Rest]:
    names = {Picks: "elements of a tensor", ClassSums: "a sum over classes", LogSumExps: "logsumexp"}
    members: list[tuple[Leaf, Tensor]] = [*group.picks, *group.sums, *group.lses]
    rests = [_rest(names[type(leaf)], leaf, factor) for leaf, factor in members if bool((factor != 0).any())]
    size = sum(abs(rest.value) for rest in rests)
    if abs(sum(rest.value for rest in rests)) <= 1e-12 * size:  # the maximum in m + ln Σ exp(x − m)
        return []
    return [rest for rest in rests if rest.value != 0]


def _term_of(group: Group) -> Term | None:
    log_probabilities = class_dim_of(group.base) is not None
    if not log_probabilities and not group.lses:
        return _bare_nll(group)
    if group.lses and log_probabilities:
        return None
    scores: Scores
    if log_probabilities:
        scores = TableScores(group.base, group.class_dim)
        lse = None
    else:
        lse = per_row(group.lses, scores_rows(group))
        values = torch.zeros(scores_rows(group), dtype=torch.float64)
        for leaf, _ in group.lses:
            values = leaf.values.detach().reshape(-1)
        scores = LogitScores(group.base, group.class_dim, LossTerms(), values)
    if group.picks:
        return _hard(group, scores, lse)
    if group.sums:
        return _soft(group, scores, lse)
    return None


def reduction_of(of_node: str | None, scalar: bool) -> str | None:
    """That of the node that holds the rows, unless the graph reduces its rows further on."""
    if not scalar:
        return "none"
    return None if of_node == "none" else of_node


def _hard(group: Group, scores: Scores, lse: Tensor | None) -> Term | None:
    picked = picked_of(group)
    if not bool((picked.factor != 0).any()) and picked.first.counted is None and not group.sums:
        return None
    if lse is not None and not torch.allclose(lse[picked.rows], -picked.factor, rtol=group.tolerance, atol=0):
        return None
    weight = torch.where(picked.counted, picked.weight, 0.0)
    ignored = ~picked.counted
    if group.divisor == 0:  # the mean of rows that are all left out
        picked = replace(picked, counted=torch.zeros_like(picked.counted))
    smoothing, class_weight, smooth = 0.0, picked.first.class_weight, None
    upstream = quotient(-picked.factor, weight)
    if group.sums:
        found = smoothing_of(group, picked, weight) or smoothing_of(group, picked, weight_of_sums(group, picked))
        if found is None:
            return None
        smoothing, upstream, smooth, class_weight, weight = found
    picked = _without_masked(picked, upstream)
    surprisal = -picked.values if lse is None else scores.lse[picked.rows] - picked.values  # type: ignore[attr-defined]
    cost = weight * surprisal if smooth is None else (1 - smoothing) * weight * surprisal + smoothing * smooth
    if smoothing == 1 and smooth is not None:
        cost = smooth
    cost = torch.where(picked.counted, cost, 0.0)
    target = picked.classes
    if picked.first.ignore_index is not None:
        target = torch.where(ignored, picked.first.ignore_index, target)
    row_weight, upstream, weight, cost = _own_factors(upstream, weight, cost, picked.counted, group)
    return reduced_like(
        Term(
            kind="cross_entropy",
            written=_written(group),
            scores=scores,
            row_ids=picked.rows,
            row_shape=picked.shape,
            target=target,
            counted=picked.counted,
            surprisal=torch.where(picked.counted, surprisal, 0.0),
            cost=cost,
            weight=weight,
            upstream=upstream,
            class_weight=None if class_weight is None else class_weight.detach().double().cpu(),
            row_weight=row_weight,
            label_smoothing=smoothing,
            ignore_index=picked.first.ignore_index,
        ),
        reduction_of(picked.first.reduction, group.scalar),
        tolerance=group.tolerance,
        divisor=group.divisor,
    )


def _without_masked(picked: Picked, upstream: Tensor) -> Picked:
    """Rows that a mask or a selection left out do not count, where all others enter the value alike."""
    known = upstream[picked.counted & upstream.isfinite()]
    rest = known[known != 0]
    if len(rest) == len(known) or not len(rest) or bool((rest != rest[0]).any()):
        return picked
    return replace(picked, counted=picked.counted & (upstream != 0))


def _own_factors(
    upstream: Tensor, weight: Tensor, cost: Tensor, counted: Tensor, group: Group
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Factors that differ from row to row are row weights, over what the graph divided by."""
    known = upstream[counted & upstream.isfinite()]
    if not len(known) or bool(((known - known[0]).abs() <= group.tolerance * known.abs().max()).all()):
        same = known[0] if len(known) else torch.ones((), dtype=torch.float64)
        return None, torch.where(counted, same, 0.0), weight, cost
    divisor = group.divisor or 1.0
    row_weight = torch.where(counted & upstream.isfinite(), upstream * divisor, 0.0)
    return row_weight, counted.double() / divisor, weight * row_weight, cost * row_weight


def _soft(group: Group, scores: Scores, lse: Tensor | None) -> Term | None:
    count = scores_rows(group)
    factor = per_row(group.sums, count)
    if factor is None or len(group.sums) != 1:
        return None
    if lse is not None and not torch.allclose(lse, -factor, rtol=group.tolerance, atol=0):
        return None
    leaf = group.sums[0][0]
    values = leaf.values.detach().reshape(-1)
    found: SoftTargets = soft_targets(leaf, group.class_dim)
    cost = -values if lse is None else scores.lse - values  # type: ignore[attr-defined]
    upstream = -factor
    if found.scale is not None:  # a sum without factors: every class alike
        upstream, cost = upstream / found.scale, cost * found.scale
    counted = torch.ones(count, dtype=torch.bool) if found.counted is None else found.counted
    counted = counted & (factor != 0) if bool((factor != 0).any()) else counted
    counted = counted if group.divisor != 0 else torch.zeros_like(counted)
    weight = counted.double()
    row_weight, upstream, weight, cost = _own_factors(upstream, weight, torch.where(counted, cost, 0.0), counted, group)
    shape = tuple(size for size in leaf_rows(group.base, group.class_dim) if size != 1) or (count,)
    return reduced_like(
        Term(
            kind="cross_entropy",
            written=_written(group),
            scores=scores,
            row_ids=torch.arange(count),
            row_shape=shape if torch.Size(shape).numel() == count else (count,),
            target=found.classes,
            probabilities=found.probabilities,
            counted=counted,
            surprisal=cost if row_weight is None else -values,
            cost=cost,
            weight=weight,
            upstream=upstream,
            class_weight=found.class_weight,
            row_weight=row_weight,
        ),
        reduction_of(None, group.scalar),
        tolerance=group.tolerance,
        divisor=group.divisor,
    )


def _bare_nll(group: Group) -> Term | None:
    """nll_loss on what is no log-probabilities: its rows are −input[target], whatever these numbers are."""
    if not group.picks or any(leaf.name != "nll_loss" for leaf, _ in group.picks):
        return None
    term = _hard(group, TableScores(group.base, group.class_dim, normalised=False), None)
    if term is None:
        return None
    note = "the input of nll_loss is not log-probabilities: Σ exp(input) is not 1 in every row"
    return replace(term, kind="nll_loss", notes=(note,))


def _written(group: Group) -> str:
    if group.lses:
        return "logsumexp − logit"
    named = group.picks[0][0].name if group.picks else ""
    if not is_log_softmax(group.base):
        return f"{named or 'picked'} on log-probabilities made by hand"
    return "nll_loss of log_softmax" if named else "log_softmax, by hand"
