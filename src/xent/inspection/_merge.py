"""From leaves and the factors with which they enter a value to terms: one for each loss that a reader would name.

picks                            class indices
picks + sums over the classes    label smoothing:  (1 − ε)·(−ln p_y) + ε/C·Σ(−ln p_c)
sums over the classes            probabilities
log-sum-exps − picks of logits   the same without a log-softmax
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xent.inspection._binary_by_hand import logarithms_of, pairs_of, term_by_hand
from xent.inspection._expressions import Expression
from xent.inspection._join import joined
from xent.inspection._leaves import ClassSums, Leaf, LogSumExps, Other, Picks, Whole, leaf_rows
from xent.inspection._linear_parts import class_dim_of
from xent.inspection._reduction_words import reduced_like, without_rounding
from xent.inspection._scores import LogitScores, Scores, TableScores
from xent.inspection._soft_targets import SoftTargets, soft_targets
from xent.inspection._term import Term, exact_sum
from xent.inspection._whole_terms import whole_term
from xent.terms import LossTerms


@dataclass(frozen=True, eq=False)
class Rest:
    """A part of the value that is no cross-entropy, or none that could be made out: its value alone."""

    written: str
    value: float


@dataclass(frozen=True)
class HowReduced:
    """What the graph says of the reduction as a whole.

    Attributes:
        dtype: the loss's.
        scalar: whether it is one number.
        divisor: what a scalar was divided by, if one was once.
    """

    dtype: torch.dtype
    scalar: bool
    divisor: float | None

    @property
    def tolerance(self) -> float:
        """Relative; factors that the graph holds were rounded to the loss's dtype."""
        return 1e-9 if self.dtype == torch.float64 else 2 * torch.finfo(self.dtype).eps


@dataclass(eq=False)
class _Group:
    """The leaves that read one table, each with its factors, flat."""

    base: Expression
    tolerance: float
    divisor: float | None = None
    scalar: bool = True
    place: int = 0
    picks: list[tuple[Picks, Tensor]] = field(default_factory=list)
    sums: list[tuple[ClassSums, Tensor]] = field(default_factory=list)
    lses: list[tuple[LogSumExps, Tensor]] = field(default_factory=list)

    @property
    def class_dim(self) -> int:
        known = class_dim_of(self.base)
        if known is not None:
            return known
        for leaf, _ in (*self.lses, *self.sums, *self.picks):
            return leaf.class_dim
        raise AssertionError("a group has a leaf")


def merged(leaves: Sequence[Leaf], factors: Sequence[Tensor], how: HowReduced) -> tuple[list[Term], list[Rest]]:
    """Terms and rests; their values add up to the value, if the fold is linear."""
    tolerance = how.tolerance
    terms: list[Term] = []
    rests: list[Rest] = []
    places: dict[int, int] = {}  # of terms, in the order of the graph: that of the loss as it was written
    groups: dict[Hashable, _Group] = {}
    for place, (leaf, factor) in enumerate(zip(leaves, factors, strict=True)):
        flat = factor.reshape(-1)
        if isinstance(leaf, Whole):
            reduction = reduction_of(leaf.reduction, how.scalar)
            terms.append(whole_term(leaf, flat, reduction, tolerance))
            places[id(terms[-1])] = place
        elif isinstance(leaf, LogSumExps) and leaf.squared:
            rests.append(_rest("logsumexp²", leaf, flat))
        elif isinstance(leaf, (Picks, ClassSums, LogSumExps)):
            group = groups.setdefault(leaf.base.key, _Group(leaf.base, tolerance, how.divisor, how.scalar, place))
            chosen = {Picks: group.picks, ClassSums: group.sums, LogSumExps: group.lses}[type(leaf)]
            chosen.append((leaf, flat))  # type: ignore[arg-type]
        elif isinstance(leaf, Other) and bool((flat != 0).any()):
            rests.append(_rest(leaf.edge.name.removesuffix("Backward0"), leaf, flat))
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


def _binary_terms(groups: dict[Hashable, _Group], tolerance: float) -> list[tuple[int, Term]]:
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


def _rest(written: str, leaf: Leaf, factor: Tensor) -> Rest:
    return Rest(written, exact_sum((leaf.values.detach().reshape(-1) * factor)[factor != 0]))


def _rests_of(group: _Group) -> list[Rest]:
    names = {Picks: "elements of a tensor", ClassSums: "a sum over classes", LogSumExps: "logsumexp"}
    members: list[tuple[Leaf, Tensor]] = [*group.picks, *group.sums, *group.lses]
    rests = [_rest(names[type(leaf)], leaf, factor) for leaf, factor in members if bool((factor != 0).any())]
    size = sum(abs(rest.value) for rest in rests)
    if abs(sum(rest.value for rest in rests)) <= 1e-12 * size:  # the maximum in m + ln Σ exp(x − m)
        return []
    return [rest for rest in rests if rest.value != 0]


def _term_of(group: _Group) -> Term | None:
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
        lse = _per_row(group.lses, scores_rows(group))
        values = torch.zeros(scores_rows(group), dtype=torch.float64)
        for leaf, _ in group.lses:
            values = leaf.values.detach().reshape(-1)
        scores = LogitScores(group.base, group.class_dim, LossTerms(), values)
    if group.picks:
        return _hard(group, scores, lse)
    if group.sums:
        return _soft(group, scores, lse)
    return None


def scores_rows(group: _Group) -> int:
    """Number of rows of the table."""
    return torch.Size(leaf_rows(group.base, group.class_dim)).numel()


def reduction_of(of_node: str | None, scalar: bool) -> str | None:
    """That of the node that holds the rows, unless the graph reduces its rows further on."""
    if not scalar:
        return "none"
    return None if of_node == "none" else of_node


def _per_row(members: Sequence[tuple[Leaf, Tensor]], count: int) -> Tensor | None:
    """The factors of all leaves with one value in each row, added."""
    total = torch.zeros(count, dtype=torch.float64)
    for _, factor in members:
        if len(factor) != count:
            return None
        total = total + factor
    return total


@dataclass(frozen=True, eq=False)
class _Picked:
    """All picks of a group, one after the other, flat."""

    rows: Tensor
    classes: Tensor
    factor: Tensor
    values: Tensor
    counted: Tensor
    weight: Tensor
    shape: tuple[int, ...]
    first: Picks


def _picked(group: _Group) -> _Picked:
    shape, parts = leaf_rows(group.base, group.class_dim), []
    for leaf, factor in group.picks:
        places = [place.reshape(-1) for place in leaf.places]
        places = [place.expand(len(factor)) if len(place) != len(factor) else place for place in places]
        classes = places.pop(group.class_dim)
        rows = torch.zeros(len(factor), dtype=torch.int64)
        for place, size in zip(places, shape, strict=True):
            rows = rows * size + place
        counted = torch.ones(len(factor), dtype=torch.bool) if leaf.counted is None else leaf.counted.reshape(-1)
        weight = torch.ones(len(factor), dtype=torch.float64) if leaf.weight is None else leaf.weight.reshape(-1)
        values = leaf.values.detach().reshape(-1)
        keep = torch.ones_like(counted) if leaf.counted is not None else factor != 0
        if leaf.counted is None and len(factor) <= len(rows.unique()):  # rows masked by hand are shown as such
            keep, counted = torch.ones_like(counted), counted & (factor != 0)
        parts.append(tuple(part[keep] for part in (rows, classes, factor, values, counted, weight)))
    joined = [torch.cat(column) for column in zip(*parts, strict=True)]
    first = group.picks[0][0]
    seen = tuple(size for size in first.values.shape if size != 1) or (len(joined[0]),)
    seen = seen if torch.Size(seen).numel() == len(joined[0]) else (len(joined[0]),)
    return _Picked(*joined, seen, first)  # type: ignore[arg-type]


def _hard(group: _Group, scores: Scores, lse: Tensor | None) -> Term | None:
    picked = _picked(group)
    if not bool((picked.factor != 0).any()) and not bool((~picked.counted).any()) and not group.sums:
        return None
    if lse is not None and not torch.allclose(lse[picked.rows], -picked.factor, rtol=group.tolerance, atol=0):
        return None
    weight = torch.where(picked.counted, picked.weight, 0.0)
    smoothing, class_weight, smooth = 0.0, picked.first.class_weight, None
    upstream = _quotient(-picked.factor, weight)
    if group.sums:
        found = _smoothing(group, picked, weight) or _smoothing(group, picked, _weight_of_sums(group, picked))
        if found is None:
            return None
        smoothing, upstream, smooth, class_weight, weight = found
    picked = _without_masked(picked, upstream)
    surprisal = -picked.values if lse is None else scores.lse[picked.rows] - picked.values  # type: ignore[attr-defined]
    cost = weight * surprisal if smooth is None else (1 - smoothing) * weight * surprisal + smoothing * smooth
    if smoothing == 1 and smooth is not None:
        cost = smooth
    cost = torch.where(picked.counted, cost, 0.0)
    target = torch.where(picked.counted, picked.classes, -1)
    if picked.first.ignore_index is not None:
        target = torch.where(picked.counted, picked.classes, picked.first.ignore_index)
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
    )


def _without_masked(picked: _Picked, upstream: Tensor) -> _Picked:
    """Rows that a mask or a selection left out do not count, where all others enter the value alike."""
    known = upstream[picked.counted & upstream.isfinite()]
    rest = known[known != 0]
    if len(rest) == len(known) or not len(rest) or bool((rest != rest[0]).any()):
        return picked
    return replace(picked, counted=picked.counted & (upstream != 0))


def _own_factors(
    upstream: Tensor, weight: Tensor, cost: Tensor, counted: Tensor, group: _Group
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Factors that differ from row to row are row weights, over what the graph divided by."""
    known = upstream[counted & upstream.isfinite()]
    if not len(known) or bool(((known - known[0]).abs() <= group.tolerance * known.abs().max()).all()):
        same = known[0] if len(known) else torch.ones((), dtype=torch.float64)
        return None, torch.where(counted, same, 0.0), weight, cost
    divisor = group.divisor or 1.0
    row_weight = torch.where(counted & upstream.isfinite(), upstream * divisor, 0.0)
    return row_weight, counted.double() / divisor, weight * row_weight, cost * row_weight


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """Above / below; NaN where a weight of 0 hides the factor."""
    return torch.where(below != 0, above / below, torch.nan)


def _smoothing(
    group: _Group, picked: _Picked, weight: Tensor
) -> tuple[float, Tensor, Tensor, Tensor | None, Tensor] | None:
    """ε, upstream, mean over the classes of each row, weight of class and row; None if no one ε fits all rows."""
    count, num_classes = scores_rows(group), group.base.shape[group.class_dim]
    factor = _per_row(group.sums, count)
    profile = _class_profile(group)
    if factor is None or len(group.sums) != 1 or profile is False:
        return None
    spread, own = num_classes * -factor[picked.rows], -picked.factor
    counted = picked.counted & (weight != 0)
    ratio = (spread * weight / own)[counted]
    if not len(ratio):  # nothing counts: no number says what ε was
        return 0.0, torch.full_like(own, torch.nan), torch.zeros_like(own), None, weight
    shares = torch.where(ratio.isinf() | ratio.isnan(), 1.0, ratio / (1 + ratio))
    if bool(((shares - shares[0]).abs() > group.tolerance).any()):
        return None
    smoothing = without_rounding(float(shares[0]), group.tolerance)
    upstream = spread / smoothing if smoothing else _quotient(own, weight)
    values = group.sums[0][0].values.detach().reshape(-1)[picked.rows]
    return smoothing, upstream, -values / num_classes, profile if isinstance(profile, Tensor) else None, weight


def _weight_of_sums(group: _Group, picked: _Picked) -> Tensor:
    """w[target], where the graph has the class weight in the sum over classes alone."""
    profile = _class_profile(group)
    weight = profile[picked.classes] if isinstance(profile, Tensor) else picked.weight
    return torch.where(picked.counted, weight, 0.0)


def _class_profile(group: _Group) -> Tensor | bool | None:
    """The one factor of each class in the sum over classes; None without one, False where rows differ."""
    profile = None
    for expression in group.sums[0][0].factors:
        shape = (1,) * (len(group.base.shape) - len(expression.shape)) + expression.shape
        if any(size != 1 for dim, size in enumerate(shape) if dim != group.class_dim):
            return False
        zero = torch.zeros((), dtype=torch.int64)
        index = [zero] * len(shape)
        if shape[group.class_dim] != 1:
            index[group.class_dim] = torch.arange(shape[group.class_dim])
        found = expression.at(tuple(index[len(index) - len(expression.shape) :]))
        profile = found if profile is None else profile * found
    return None if profile is None else profile.reshape(-1).expand(group.base.shape[group.class_dim])


def _soft(group: _Group, scores: Scores, lse: Tensor | None) -> Term | None:
    count = scores_rows(group)
    factor = _per_row(group.sums, count)
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
    )


def _bare_nll(group: _Group) -> Term | None:
    """nll_loss on what is no log-probabilities: its rows are −input[target], whatever these numbers are."""
    if not group.picks or any(leaf.name != "nll_loss" for leaf, _ in group.picks):
        return None
    term = _hard(group, TableScores(group.base, group.class_dim, normalised=False), None)
    if term is None:
        return None
    note = "the input of nll_loss is not log-probabilities: Σ exp(input) is not 1 in every row"
    return replace(term, kind="nll_loss", notes=(note,))


def _written(group: _Group) -> str:
    if group.lses:
        return "logsumexp − logit"
    named = group.picks[0][0].name if group.picks else ""
    kind = type(group.base).__name__
    if kind != "LogProbabilities":
        return f"{named or 'picked'} on log-probabilities made by hand"
    return "nll_loss of log_softmax" if named else "log_softmax, by hand"
