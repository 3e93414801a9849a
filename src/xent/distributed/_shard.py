"""One rank's part of a problem: some of the classes of every row.

    logits (*rows, V_r)    target (*rows) or (*rows, k) with global indices, or (*rows, V_r) probabilities

The classes of rank r are `start` … `start` + V_r − 1 of V = Σ_r V_r. What a rank knows of a row is a `ShardState`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xent.problem import stats_dtype
from xent.terms import LossTerms


@dataclass(frozen=True, eq=False)
class Shard:
    """The canonical form of one rank's part.

    Attributes:
        logits: (*rows, V_r).
        target: (*rows) or (*rows, k) int64 global indices, the same on every rank; or (*rows, V_r) probabilities.
        probabilities: (*rows, k) of a sparse target, else None.
        terms: the options; `weight` is (V_r,).
        start: the global index of the first class.
        total: V.
        with_stats: whether entropy and prediction are asked for.
    """

    logits: Tensor
    target: Tensor
    probabilities: Tensor | None
    terms: LossTerms
    start: int
    total: int
    with_stats: bool = False

    @property
    def is_hard(self) -> bool:
        """Whether targets are class indices."""
        return not self.target.is_floating_point() and self.probabilities is None

    @property
    def is_dense(self) -> bool:
        """Whether targets are probabilities of all classes."""
        return self.target.is_floating_point()

    @property
    def width(self) -> int:
        """V_r."""
        return self.logits.shape[-1]

    @property
    def row_shape(self) -> torch.Size:
        """The shape of the rows."""
        return self.logits.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the statistics."""
        return stats_dtype(self.logits.dtype)

    def counted(self) -> Tensor | None:
        """Mask (*rows) of the rows that count; None where all do."""
        if self.is_dense:
            return None
        named = self.target != self.terms.ignore_index
        return named if self.is_hard else named.any(-1)

    def class_weight(self) -> Tensor | None:
        """(V_r,) in the dtype of the statistics."""
        return None if self.terms.weight is None else self.terms.weight.to(self.dtype)

    def smoothing_mass(self) -> Tensor | float:
        """ε / V · Σ_c w_c over the classes of this rank."""
        weight = self.class_weight()
        total = self.width if weight is None else weight.sum(dtype=torch.float64)
        return self.terms.label_smoothing / self.total * total

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """For the k entries of each target (*rows, k): whether this rank has the class, its column (or 0), q."""
        index = self.target.unsqueeze(-1) if self.is_hard else self.target
        column = index - self.start
        owned = (column >= 0) & (column < self.width) & (index != self.terms.ignore_index)
        column = column.masked_fill(~owned, 0)
        q = torch.ones_like(column, dtype=self.dtype) if self.probabilities is None else self.probabilities
        return owned, column, q.to(self.dtype)

    def between(self, start: int, stop: int) -> Shard:
        """Some of the rows, of a shard whose rows have one dimension."""
        terms = self.terms
        if terms.row_weight is not None:
            terms = replace(terms, row_weight=None)
        probabilities = None if self.probabilities is None else self.probabilities[start:stop]
        return replace(
            self,
            logits=self.logits[start:stop],
            target=self.target[start:stop],
            probabilities=probabilities,
            terms=terms,
        )


@dataclass(eq=False)
class ShardState:
    """What one rank knows of each row, (*rows); float64 but for `prediction` and `true_index`.

    lse_r = `reference` + `rest` is the log-sum-exp of the rank's logits; t_c = w_c q_c, smoothed, is the target.

    Attributes:
        reference: a number near lse_r, without gradient; −∞ where the rank has no class with a probability.
        rest: lse_r − reference, with the gradient of lse_r; 0 where reference is −∞.
        spread: Σ_c t_c (lse_r − z_c), whose gradient is −t_c: lse_r counts as a constant in it.
        mass: Σ_c t_c.
        weight: w[target] where this rank has the target, 0 elsewhere; of index targets.
        entropy: entropy of softmax over the rank's classes.
        best: its largest logit.
        prediction: the global index of it.
        true_value: the largest target probability, of dense targets.
        true_index: the global index of it.
    """

    reference: Tensor
    rest: Tensor
    spread: Tensor
    mass: Tensor
    weight: Tensor
    entropy: Tensor | None = None
    best: Tensor | None = None
    prediction: Tensor | None = None
    true_value: Tensor | None = None
    true_index: Tensor | None = None

    def at(self, kept: Tensor | None) -> ShardState:
        """Flat, (M,), and only the rows that a flat mask keeps."""

        def pick(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            flat = value.reshape(-1)
            return flat if kept is None else flat[kept]

        picked: dict[str, Any] = {name: pick(value) for name, value in vars(self).items()}
        return ShardState(**picked)
