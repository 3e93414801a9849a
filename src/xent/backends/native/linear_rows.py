"""The rows of a linear + cross-entropy problem, a few at a time; ignored rows are not among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xent.head import HeadRows, is_flat
from xent.problem import Rows, counted_mask, safe_target, stats_dtype


@dataclass(frozen=True, eq=False)
class CountedRows:
    """The rows of `problem` that cost a product.

    Attributes:
        problem: the whole problem, without row weights: the caller multiplies the losses by them.
        kept: numbers of the rows that count, (M,); None where all do.
    """

    problem: HeadRows
    kept: Tensor | None

    def __len__(self) -> int:
        return self.num_hidden if self.kept is None else self.kept.shape[0]

    @cached_property
    def num_hidden(self) -> int:
        """N: hidden states, counted or not."""
        return self.problem.hidden.shape[:-1].numel()

    @cached_property
    def per_hidden(self) -> int:
        """K: losses for each hidden state."""
        return self.problem.extra_shape_product

    @cached_property
    def lead(self) -> int:
        """Dimensions of the rows."""
        return self.problem.hidden.ndim - 1

    @property
    def is_gathered(self) -> bool:
        """Whether `hidden_between` copies."""
        return self.kept is not None or not is_flat(self.problem.hidden, self.lead)

    def hidden_between(self, start: int, stop: int) -> Tensor:
        """Hidden states (n, D) of counted rows start … stop − 1."""
        return self._between(self.problem.hidden.detach(), start, stop)

    def losses_between(self, start: int, stop: int) -> Tensor | slice:
        """Where their losses stand among all N·K."""
        if self.kept is None:
            return slice(start * self.per_hidden, stop * self.per_hidden)
        return self.kept[start:stop]

    def target_between(self, start: int, stop: int, classes: slice = slice(None)) -> Tensor:
        """Targets (n, *extra), (n, *extra, C) or (n, k); of dense ones those of some classes."""
        target = self.problem.target
        return self._between(target[..., classes] if self.problem.is_dense else target, start, stop)

    def probabilities_between(self, start: int, stop: int) -> Tensor | None:
        """Probabilities (n, k) of sparse targets, else None."""
        probabilities = self.problem.probabilities
        return None if probabilities is None else self._between(probabilities.detach(), start, stop)

    def _between(self, tensor: Tensor, start: int, stop: int) -> Tensor:
        """Rows of (*rows, …): a view where they are all counted and lie in one order, else gathered."""
        if is_flat(tensor, self.lead):
            flat = tensor.view(self.num_hidden, *tensor.shape[self.lead :])
            return flat[start:stop] if self.kept is None else flat.index_select(0, self.kept[start:stop])
        rows = torch.arange(start, stop) if self.kept is None else self.kept[start:stop]
        return tensor[torch.unravel_index(rows, tensor.shape[: self.lead])]

    def problem_between(self, start: int, stop: int, logits: Tensor) -> Rows:
        """The problem of these rows, with their logits (n, C·K) made."""
        extra = self.problem.extra_shape
        if extra:
            logits = logits.unflatten(1, (self.problem.num_classes, *extra)).movedim(1, -1)
        target, probabilities = self.target_between(start, stop), self.probabilities_between(start, stop)
        return Rows(logits, target, self.problem.terms, probabilities)


def counted_rows(problem: HeadRows) -> CountedRows:
    """The rows of `problem` without the ignored ones (all of them for probabilities and K-dimensional logits)."""
    counted = counted_mask(problem)
    if counted is None or problem.extra_shape:
        return CountedRows(problem, None)
    counted = counted.reshape(-1)
    return CountedRows(problem, None if bool(counted.all()) else counted.nonzero().squeeze(1))


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
