"""`Term`: one loss inside a value, row by row, in canonical form.

cost_i  = r_i · (Σ_c t_ic (−ln p_ic))  +  z-term         t: the target's mass, class weights and smoothing included
value   = Σ_i upstream_i · cost_i
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from xent.inspection._scores import Scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Term:
    """One loss inside a value.

    Attributes:
        kind: name of the function of torch that computes it ("cross_entropy", "nll_loss", …).
        written: how the graph computes it, in words.
        scores: log-probabilities and logits of its rows.
        row_ids: number in `scores` of each row, (n,).
        row_shape: shape in which the rows are numbered for the reader.
        target: class of each row, (n,) int64, ignored ones as they were given; None for probabilities.
        probabilities: rows → target distributions (m, C), where targets are probabilities.
        counted: False for ignored rows, (n,).
        surprisal: −ln p of the target of each row, or −Σ q ln p, without weights and smoothing, (n,).
        cost: the loss of each row, all weights in it, (n,) float64.
        weight: what each row adds to the mean's denominator, (n,).
        upstream: the factor with which each cost enters the value, (n,).
        class_weight: (C,), or (n, C) for a binary loss whose columns have their own, or None.
        row_weight: (n,) or None.
        label_smoothing: ε.
        z_part: the part of `cost` that is the z-term, (n,) or None.
        z_slope: derivative of the z-part with respect to the log-sum-exp, (n,) or None.
        ignore_index: the target that is ignored, None where there is none.
        reduction: "mean", "sum", or "none".
        factor: what multiplies the reduced loss.
        denominator: what the sum is divided by; 1 for a sum.
        denominator_words: "3 rows", "Σ weight", …
        num_values: how many values the rows were added up to, where it is neither one nor one for each row.
        notes: facts that the reader should know.
    """

    kind: str
    written: str
    scores: Scores
    row_ids: Tensor
    row_shape: tuple[int, ...]
    target: Tensor | None
    probabilities: Callable[[Tensor], Tensor] | None = None
    counted: Tensor
    surprisal: Tensor
    cost: Tensor
    weight: Tensor
    upstream: Tensor
    class_weight: Tensor | None = None
    row_weight: Tensor | None = None
    label_smoothing: float = 0.0
    z_part: Tensor | None = None
    z_slope: Tensor | None = None
    ignore_index: int | None = None
    reduction: str = "mean"
    factor: float = 1.0
    denominator: float = 1.0
    denominator_words: str = ""
    num_values: int | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def num_rows(self) -> int:
        """n, ignored rows included."""
        return len(self.cost)

    @cached_property
    def num_counted(self) -> int:
        """Rows that count."""
        return int(self.counted.sum())

    @property
    def num_classes(self) -> int:
        """C."""
        return self.scores.num_classes

    @property
    def is_binary(self) -> bool:
        """Whether every element is a prediction of its own."""
        return self.kind.startswith("binary")

    @cached_property
    def total(self) -> float:
        """Σ cost of the counted rows."""
        return exact_sum(self.cost[self.counted])

    @cached_property
    def value(self) -> float:
        """Σ upstream · cost: what the term adds to the value; NaN for the mean of no rows."""
        if self.reduction == "mean" and not self.denominator:
            return math.nan
        return exact_sum((self.upstream * self.cost)[self.counted])

    @property
    def is_plain(self) -> bool:
        """Whether the cost of a row is −ln p of its target and nothing else."""
        return self.target is not None and self.class_weight is None and self.row_weight is None and not (
            self.label_smoothing or self.z_part is not None
        )  # fmt: skip

    def log_probs(self, rows: Tensor) -> Tensor:
        """Ln p (m, C) of rows of the term."""
        return self.scores.log_probs(self.row_ids[rows])

    def distributions(self, rows: Tensor) -> Tensor:
        """Target distributions (m, C) before smoothing; 0 for ignored rows."""
        if self.probabilities is not None:
            return self.probabilities(rows)
        counted = self.counted[rows]
        one_hot = torch.zeros(len(rows), self.num_classes, dtype=torch.float64)
        return one_hot.scatter_(1, self.labels(rows).unsqueeze(1), 1.0) * counted.unsqueeze(1)

    def labels(self, rows: Tensor) -> Tensor:
        """The class of each of some rows: its target, or the likeliest of its probabilities; 0 for ignored rows."""
        if self.target is None:
            return self.distributions(rows).argmax(-1)
        return self.target[rows].masked_fill(~self.counted[rows], 0)

    def mass(self, rows: Tensor) -> Tensor:
        """T (m, C): what multiplies −ln p of each class in the cost, without the z-term."""
        q, smoothing = self.distributions(rows), self.label_smoothing
        weight = self._class_weights(rows)
        if self.target is not None and not self.is_binary:  # the target's own weight, and each class's on its share
            own = 1.0 if weight is None else (q * weight).sum(-1, keepdim=True)
            mass = (1 - smoothing) * q * own
            if smoothing:
                mass = mass + smoothing / self.num_classes * (1.0 if weight is None else weight)
        else:
            mass = (1 - smoothing) * q + (smoothing / self.num_classes if smoothing else 0.0)
            mass = mass if weight is None else mass * weight
        if self.row_weight is not None:
            mass = mass * self.row_weight[rows].unsqueeze(1)
        return mass * self.counted[rows].unsqueeze(1)

    def _class_weights(self, rows: Tensor) -> Tensor | None:
        if self.class_weight is None or self.class_weight.ndim == 1:
            return self.class_weight
        return self.class_weight[rows]

    def gradient(self, rows: Tensor) -> Tensor:
        """D value / d logits (m, C) of rows: upstream · (a · p − t), with a = Σ t, and the z-term's share."""
        p, mass = self.log_probs(rows).exp(), self.mass(rows)
        of_cost = mass.sum(-1, keepdim=True) * p - mass
        if self.z_slope is not None:
            of_cost = of_cost + self.z_slope[rows].unsqueeze(1) * p
        return self.upstream[rows].unsqueeze(1) * of_cost * self.scores.slope(self.row_ids[rows])

    def blocks(self) -> list[Tensor]:
        """The rows, some at a time, so that a table of them stays below 16 MiB."""
        return list(torch.arange(self.num_rows).split(max(1, (1 << 21) // max(self.num_classes, 1))))

    def position(self, row: int) -> str:
        """A row's number as the reader knows it: 7, or (1, 3) of a sequence."""
        if len(self.row_shape) < 2:
            return str(row)
        return "(" + ", ".join(str(int(part)) for part in torch.unravel_index(torch.tensor(row), self.row_shape)) + ")"


def exact_sum(values: Tensor) -> float:
    """The sum of float64 numbers, rounded once."""
    if values.numel() <= 1 << 20 and bool(values.isfinite().all()):
        return math.fsum(values.tolist())
    return float(values.sum())
