"""Losses of a loop, one for each time step or sample, as one loss with all of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xent.inspection._reduction_words import reduced_like
from xent.inspection._scores import Scores
from xent.inspection._term import Term

_SEPARATE = 2  # so many losses are named one by one: a loss and its auxiliary


@dataclass(eq=False)
class JoinedScores(Scores):
    """The rows of several tables, one after the other."""

    parts: Sequence[Scores]

    def __post_init__(self) -> None:
        self.num_classes = self.parts[0].num_classes
        counts = torch.tensor([part.num_rows for part in self.parts])
        self._ends = counts.cumsum(0)
        self._starts = self._ends - counts
        self.row_shape = (int(self._ends[-1]),)

    def _each(self, rows: Tensor) -> list[tuple[Scores, Tensor, Tensor]]:
        """For each table with some of the rows: the table, the rows in it, their places among `rows`."""
        owner = torch.searchsorted(self._ends, rows, right=True)
        found = []
        for number in owner.unique().tolist():
            places = (owner == number).nonzero().squeeze(1)
            found.append((self.parts[number], rows[places] - self._starts[number], places))
        return found

    def log_probs(self, rows: Tensor) -> Tensor:
        values = torch.empty(len(rows), self.num_classes, dtype=torch.float64)
        for part, inside, places in self._each(rows):
            values[places] = part.log_probs(inside)
        return values

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor | None:
        values = torch.empty(len(rows), dtype=torch.float64)
        for part, inside, places in self._each(rows):
            found = part.logits_at(inside, classes[places])
            if found is None:
                return None
            values[places] = found
        return values

    def all_logits(self, rows: Tensor) -> Tensor | None:
        values = torch.empty(len(rows), self.num_classes, dtype=torch.float64)
        for part, inside, places in self._each(rows):
            found = part.all_logits(inside)
            if found is None:
                return None
            values[places] = found
        return values


def joined(terms: list[Term]) -> list[Term]:
    """The terms, those of a loop made one."""
    kinds: dict[Any, list[Term]] = {}
    for term in terms:
        kinds.setdefault(_kind(term), []).append(term)
    found: list[Term] = []
    for term in terms:
        kind = _kind(term)
        members = kinds[kind]
        if kind is None or len(members) <= _SEPARATE:
            found.append(term)
        elif term is members[0]:
            found.append(_one(members))
    return found


def _kind(term: Term) -> Any:
    """Equal for terms that may be rows of one loss; None for one that stands alone."""
    plain = term.row_weight is None and term.z_part is None and term.probabilities is None
    if not plain or term.is_binary or not term.scores.normalised or not _unscaled(term):
        return None
    weight = None if term.class_weight is None else tuple(term.class_weight.tolist())
    upstream = term.upstream[term.counted]
    factor = float(f"{float(upstream[0]):.6g}") if len(upstream) else None
    return term.kind, term.num_classes, term.label_smoothing, weight, factor, term.ignore_index


def _unscaled(term: Term) -> bool:
    slope = term.scores.slope(term.row_ids[:1])
    return isinstance(slope, float) and slope == 1.0


def _one(members: Sequence[Term]) -> Term:
    offsets, offset = [], 0
    for term in members:
        offsets.append(offset)
        offset += term.scores.num_rows
    shapes = {term.row_shape for term in members}
    first, count = members[0], sum(term.num_rows for term in members)
    shape = (len(members), first.num_rows) if len(shapes) == 1 and first.num_rows > 1 else (count,)

    def all_of(name: str) -> Any:
        return torch.cat([getattr(term, name) for term in members])

    row_ids = torch.cat([term.row_ids + start for term, start in zip(members, offsets, strict=True)])
    whole = replace(
        first,
        written=f"{len(members)} × {first.written}",
        scores=JoinedScores([term.scores for term in members]),
        row_ids=row_ids,
        row_shape=shape,
        **{name: all_of(name) for name in ("target", "counted", "surprisal", "cost", "weight", "upstream")},
    )
    return reduced_like(whole, None, tolerance=1e-6)
