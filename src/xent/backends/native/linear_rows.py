"""The rows of a linear + cross-entropy problem, a few at a time; ignored rows are not among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xent.head import HeadRows
from xent.problem import Rows, counted_mask, safe_target, stats_dtype


@dataclass(frozen=True, eq=False)
class CountedRows:
    """The rows of `problem` that cost a product.

    Attributes:
        problem: the whole problem, without row weights: the caller multiplies the losses by them.
        hidden: its hidden states, (N, D).
        kept: numbers of the rows that count, (M,); None where all do.
    """

    problem: HeadRows
    hidden: Tensor
    kept: Tensor | None

    def __len__(self) -> int:
        return self.hidden.shape[0] if self.kept is None else self.kept.shape[0]

    @cached_property
    def per_hidden(self) -> int:
        """K: losses for each hidden state."""
        return self.problem.extra_shape_product

    def hidden_between(self, start: int, stop: int) -> Tensor:
        """Hidden states (n, D) of counted rows start … stop − 1."""
        if self.kept is None:
            return self.hidden[start:stop]
        return self.hidden.index_select(0, self.kept[start:stop])

    def losses_between(self, start: int, stop: int) -> Tensor | slice:
        """Where their losses stand among all N·K."""
        if self.kept is None:
            return slice(start * self.per_hidden, stop * self.per_hidden)
        return self.kept[start:stop]

    def target_between(self, start: int, stop: int) -> Tensor:
        """Targets (n, *extra), (n, *extra, C) or (n, k)."""
        return self._between(self.problem.target, start, stop)

    def probabilities_between(self, start: int, stop: int) -> Tensor | None:
        """Probabilities (n, k) of sparse targets, else None."""
        probabilities = self.problem.probabilities
        return None if probabilities is None else self._between(probabilities.detach(), start, stop)

    def _between(self, target: Tensor, start: int, stop: int) -> Tensor:
        lead = self.problem.hidden.ndim - 1
        if lead == 0:
            return target.unsqueeze(0)[start:stop]
        if lead == 1:
            return target[start:stop] if self.kept is None else target[self.kept[start:stop]]
        rows = torch.arange(start, stop) if self.kept is None else self.kept[start:stop]
        return target[torch.unravel_index(rows, target.shape[:lead])]

    def problem_between(self, start: int, stop: int, logits: Tensor) -> Rows:
        """The problem of these rows, with their logits (n, C·K) made."""
        extra = self.problem.extra_shape
        if extra:
            logits = logits.unflatten(1, (self.problem.num_classes, *extra)).movedim(1, -1)
        target, probabilities = self.target_between(start, stop), self.probabilities_between(start, stop)
        return Rows(logits, target, self.problem.terms, probabilities)


def counted_rows(problem: HeadRows) -> CountedRows:
    """The rows of `problem` without the ignored ones (all of them for probabilities and K-dimensional logits)."""
    hidden = problem.hidden.detach().reshape(-1, problem.hidden.shape[-1])
    counted = counted_mask(problem)
    if counted is None or problem.extra_shape:
        return CountedRows(problem, hidden, None)
    counted = counted.reshape(-1)
    return CountedRows(problem, hidden, None if bool(counted.all()) else counted.nonzero().squeeze(1))


def row_weights(problem: HeadRows) -> Tensor:
    """What each row adds to the mean's denominator, (*rows, *extra): known before any product."""
    terms, dtype = problem.terms, stats_dtype(problem.hidden.dtype)
    weight = torch.ones(problem.row_shape, dtype=dtype)
    if problem.is_hard and terms.weight is not None:
        safe = safe_target(problem)
        weight = terms.weight.detach().to(dtype).index_select(0, safe.reshape(-1)).reshape(safe.shape)
    counted = counted_mask(problem)
    if counted is not None:
        weight = weight.masked_fill(~counted, 0)
    return weight if terms.row_weight is None else weight * terms.row_weight.detach().to(dtype)
