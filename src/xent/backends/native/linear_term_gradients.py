"""Gradients of what a linear loss is made of beside the logits: its target, and its class weight.

    d loss / d q_c = g (1 − ε) w_c (lse − z_c)          of a dense target, or of the entries of a sparse one
    d loss / d w_c = Σ_rows g ((1 − ε) q_c + ε / C) (lse − z_c), and with c = y also g ζ lse² + g_weight

A block of logits is read before its gradient is written over it, in pieces that fit a cache: nothing here has the size
of the logits but the gradient of a dense target, which the caller asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from xent.backends.native.linear_rows import CountedRows
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values
from xent.backends.native.target_entries import TargetEntries, scaled, target_entries
from xent.problem import stats_dtype

_PIECE = 1 << 15  # float64 numbers at a time
_COLUMNS = 1 << 13


class TermGradients:
    """The gradients of dense target, sparse probabilities and class weight, summed over blocks of logits."""

    def __init__(self, rows: CountedRows, values: Values, upstream: Upstream, needs: Needs) -> None:
        self.rows, self._values, self._upstream, self._needs = rows, values, upstream, needs
        problem, terms = rows.problem, rows.problem.terms
        self._classes, self._smoothing = problem.num_classes, terms.label_smoothing
        weight = terms.weight
        self._class_weight = None if weight is None else weight.detach().to(stats_dtype(problem.hidden.dtype)).double()
        self._made: tuple[tuple[int, int], TargetEntries] | None = None
        self.target = torch.zeros(problem.target.shape, dtype=problem.target.dtype) if needs.target else None
        self.class_weight = torch.zeros(self._classes, dtype=torch.float64) if needs.class_weight else None
        self.probabilities = None
        if needs.probabilities and problem.probabilities is not None:
            self.probabilities = torch.zeros(problem.probabilities.shape, dtype=problem.probabilities.dtype)

    def add(self, start: int, stop: int, first: int, logits: Tensor) -> None:
        """Add what the counted rows start … stop − 1 give, from their logits (n, …, T) of classes `first` and on."""
        if not self._needs.terms or self._upstream.is_zero:
            return
        g = self._of_rows(self._upstream.loss, start, stop)
        if self.rows.problem.is_dense:
            self._add_dense(start, first, logits, g)
            return
        if self.class_weight is not None and self._smoothing:
            self._add_smoothing(start, first, logits, g)
        self._add_entries(start, stop, first, logits, g)

    def _of_rows(self, value: Tensor | None, start: int, stop: int) -> Tensor:
        """Numbers of these rows, float64; 0 for None, and for the ignored ones that are not left out."""
        where = self.rows.losses_between(start, stop)
        if value is None:
            return torch.zeros((stop - start) * self.rows.per_hidden, dtype=torch.float64)
        counted = self._values.counted
        return value[where].double() if counted is None else value[where].double().masked_fill(~counted[where], 0)

    def _surprisals(self, start: int, logits: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows and columns of each piece of a block, as (n·K, T), and lse − z in it."""
        per, (count, width) = self.rows.per_hidden, (len(logits), logits.shape[-1])
        for left in range(0, width, _COLUMNS):
            columns = slice(left, min(left + _COLUMNS, width))
            step = max(_PIECE // (min(_COLUMNS, width) * per), 1)
            for top in range(0, count, step):
                stop = min(top + step, count)
                z, _ = scaled(logits[top:stop, ..., columns].double(), self.rows.problem.terms)
                lse = self._of_rows(self._values.exact_lse, start + top, start + stop).unsqueeze(1)
                low = self._of_rows(self._values.lse_low, start + top, start + stop).unsqueeze(1)
                yield slice(top * per, stop * per), columns, (lse - z.reshape(len(lse), -1)) + low

    def _add_dense(self, start: int, first: int, logits: Tensor, g: Tensor) -> None:
        per, classes = self.rows.per_hidden, slice(first, first + logits.shape[-1])
        target = self.rows.target_between(start, start + len(logits), classes).detach()
        for rows, columns, surprisal in self._surprisals(start, logits):
            here = slice(first + columns.start, first + columns.stop)
            q = target[rows.start // per : rows.stop // per, ..., columns].double().reshape(surprisal.shape)
            q = (1 - self._smoothing) * q + self._smoothing / self._classes
            weighed = g[rows].unsqueeze(1) * surprisal.masked_fill_((q == 0) & (surprisal == torch.inf), 0)
            if self.class_weight is not None:
                self.class_weight[here] += (q * weighed).sum(0)
            if self.target is not None:
                weight = 1.0 if self._class_weight is None else self._class_weight[here]
                flat = self.target.view(-1, self._classes)
                flat[start * per + rows.start : start * per + rows.stop, here] = (
                    (1 - self._smoothing) * weight * weighed
                ).to(flat.dtype)

    def _add_smoothing(self, start: int, first: int, logits: Tensor, g: Tensor) -> None:
        share, total = self._smoothing / self._classes, self.class_weight
        for rows, columns, surprisal in self._surprisals(start, logits):
            if total is not None:
                column_sums = _product(g[rows].unsqueeze(1), surprisal).sum(0)
                total[first + columns.start : first + columns.stop] += share * column_sums

    def _add_entries(self, start: int, stop: int, first: int, logits: Tensor, g: Tensor) -> None:
        problem, entries = self.rows.problem, self._entries_between(start, stop)
        column = entries.index - first
        rows, number = ((column >= 0) & (column < logits.shape[-1])).nonzero(as_tuple=True)
        flat = logits.reshape(-1, logits.shape[-1]) if problem.extra_shape else logits
        z, _ = scaled(flat[rows, column[rows, number]].double(), problem.terms)
        lse = self._of_rows(self._values.exact_lse, start, stop)
        surprisal = (lse[rows] - z) + self._of_rows(self._values.lse_low, start, stop)[rows]
        q = entries.q[rows, number]
        weighed = _product(g[rows], surprisal.masked_fill((q == 0) & (surprisal == torch.inf), 0))
        if self._smoothing == 1:
            weighed = torch.zeros_like(weighed)
        if self.probabilities is not None:
            where = torch.arange(self.rows.num_hidden)[self.rows.losses_between(start, stop)]
            flat = self.probabilities.view(-1, entries.index.shape[1])
            flat[where[rows], number] = (entries.share[rows, number] * weighed).to(flat.dtype)
        if self.class_weight is not None:
            of_weight = (1 - self._smoothing) * q * weighed
            if problem.is_hard:
                of_weight = of_weight + self._of_denominator(start, stop, g, lse)[rows]
            self.class_weight.index_add_(0, entries.index[rows, number], of_weight)

    def _of_denominator(self, start: int, stop: int, g: Tensor, lse: Tensor) -> Tensor:
        """What the class weight of a hard target gets besides: it weighs the z-term and counts in the mean."""
        weighs = self._of_rows(self._upstream.weight, start, stop)
        z_loss = self.rows.problem.terms.z_loss
        return weighs + z_loss * g * lse.square() if z_loss else weighs

    def _entries_between(self, start: int, stop: int) -> TargetEntries:
        if self._made is None or self._made[0] != (start, stop):
            problem, index = self.rows.problem, self.rows.target_between(start, stop)
            index = index.masked_fill(index == problem.terms.ignore_index, 0)
            probabilities = self.rows.probabilities_between(start, stop)
            made = target_entries(
                index.reshape(-1) if probabilities is None else index,
                probabilities,
                self._class_weight,
                self._classes,
                self._smoothing,
            )
            self._made = (start, stop), made
        return self._made[1]


def with_terms(made: Gradients, terms: TermGradients) -> Gradients:
    """The gradients that go through the logits, and these, in the dtype of their tensors."""
    weight = terms.rows.problem.terms.weight
    of_weight = (
        terms.class_weight if weight is None or terms.class_weight is None else terms.class_weight.to(weight.dtype)
    )
    return replace(made, target=terms.target, class_weight=of_weight, probabilities=terms.probabilities)


def _product(g: Tensor, value: Tensor) -> Tensor:
    """The product, 0 where g is 0: an ignored row may hold anything."""
    return (g * value).masked_fill(g == 0, 0)
