"""What each row says of its classes: ln p of the rows that are asked for, and logits where they are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xent.errors import NotExplained
from xent.head import HeadRows
from xent.inspection._expressions import Elementwise, Expression, View, unravel
from xent.inspection._leaves import LogProbabilities, leaf_rows
from xent.inspection._nodes import Edge, Unreadable
from xent.terms import LossTerms

_BLOCK = 1 << 21  # numbers in float64 at a time: 16 MiB


class Scores:
    """Rows × classes that nobody copies whole.

    Attributes:
        row_shape: shape of the rows.
        num_classes: C.
        normalised: whether the log-probabilities are some, Σ exp = 1.
    """

    row_shape: tuple[int, ...]
    num_classes: int
    normalised: bool = True

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return torch.Size(self.row_shape).numel()

    def log_probs(self, rows: Tensor) -> Tensor:
        """Ln p of all classes of some rows, (n, C) float64."""
        raise NotImplementedError

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor | None:
        """One logit of each of some rows, (n,); None where they can't be read."""
        del rows, classes
        return None

    def all_logits(self, rows: Tensor) -> Tensor | None:
        """The caller's logits of all classes of some rows, (n, C) float64; None where they can't be read."""
        del rows
        return None

    @property
    def options(self) -> LossTerms:
        """Scale, soft cap and z-loss, where the loss has them."""
        return LossTerms()

    def slope(self, rows: Tensor) -> Tensor | float:
        """Derivative of the softmax's argument with respect to the caller's logits: scale and soft cap."""
        del rows
        return 1.0

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers and log-probabilities of some rows after the other."""
        step = max(1, _BLOCK // max(self.num_classes, 1))
        for rows in torch.arange(self.num_rows).split(step):
            yield rows, self.log_probs(rows)


@dataclass(eq=False)
class TableScores(Scores):
    """Log-probabilities that the graph holds."""

    table: Expression
    class_dim: int
    normalised: bool = True
    _logits: list[Expression | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row_shape = leaf_rows(self.table, self.class_dim)
        self.num_classes = self.table.shape[self.class_dim]

    def log_probs(self, rows: Tensor) -> Tensor:
        return self.table.rows(unravel(rows, self.row_shape), self.class_dim)

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor | None:
        logits = self.logits()
        if logits is None:
            return None
        index = list(unravel(rows, self.row_shape))
        index.insert(self.class_dim, classes)
        try:
            return logits.at(tuple(index))
        except (Unreadable, NotExplained):
            return None

    def all_logits(self, rows: Tensor) -> Tensor | None:
        logits = self.logits()
        if logits is None:
            return None
        try:
            return logits.rows(unravel(rows, self.row_shape), self.class_dim)
        except (Unreadable, NotExplained):
            return None

    def logits(self) -> Expression | None:
        """The logits behind, if the graph still has them."""
        if not self._logits:
            self._logits.append(_logits_of(self.table))
        return self._logits[0]


def _logits_of(table: Expression) -> Expression | None:
    while isinstance(table, View) and table.same_places:
        table = table.base
    if isinstance(table, Elementwise) and table.name == "Add-1.0" and table.operands[0].shape == table.shape:
        return table.operands[0]  # x − logsumexp(x)
    behind: Any = table.behind if isinstance(table, (LogProbabilities, Elementwise)) else None
    if not isinstance(behind, Edge):
        return None
    from xent.inspection._tables import expression_of

    try:
        logits = expression_of(behind)
    except (Unreadable, NotExplained):
        return None
    return logits if logits.shape == table.shape else None


@dataclass(eq=False)
class LogitScores(Scores):
    """Logits as the caller gave them."""

    table: Expression
    class_dim: int
    terms: LossTerms
    lse: Tensor | None = None

    def __post_init__(self) -> None:
        self.row_shape = leaf_rows(self.table, self.class_dim)
        self.num_classes = self.table.shape[self.class_dim]

    def _scaled(self, logits: Tensor) -> Tensor:
        from xent.backends.reference.cross_entropy import scaled_logits

        return scaled_logits(logits, self.terms, torch.float64)

    def log_probs(self, rows: Tensor) -> Tensor:
        return self._scaled(self.all_logits(rows)).log_softmax(-1)

    def all_logits(self, rows: Tensor) -> Tensor:
        return self.table.rows(unravel(rows, self.row_shape), self.class_dim)

    @property
    def options(self) -> LossTerms:
        return self.terms

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor:
        index = list(unravel(rows, self.row_shape))
        index.insert(self.class_dim, classes)
        return self.table.at(tuple(index))

    def log_prob_at(self, rows: Tensor, classes: Tensor) -> Tensor:
        """Ln p of one class of each row, from the log-sum-exp where it is known."""
        if self.lse is None:
            return self.log_probs(rows).gather(-1, classes.unsqueeze(-1)).squeeze(-1)
        return self._scaled(self.logits_at(rows, classes)) - self.lse[rows]

    def slope(self, rows: Tensor) -> Tensor | float:
        scale, cap = self.terms.logit_scale, self.terms.softcap
        if cap is None:
            return scale
        z = self._scaled(self.all_logits(rows))
        return scale * (1 - (z / cap).square())


@dataclass(eq=False)
class HeadScores(Scores):
    """Logits that nobody holds: hidden states and a linear weight."""

    problem: HeadRows
    lse: Tensor | None

    def __post_init__(self) -> None:
        self.lse = None if self.lse is None else self.lse.detach().double().cpu().reshape(-1)
        self.row_shape = self.problem.row_shape
        self.num_classes = self.problem.num_classes

    def log_probs(self, rows: Tensor) -> Tensor:
        return self._scaled(self.all_logits(rows)).log_softmax(-1)

    @property
    def options(self) -> LossTerms:
        return self.problem.terms

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor:
        parts = [self.all_logits(some) for some in rows.split(max(1, _BLOCK // self.num_classes))]
        found = [part.gather(1, some.unsqueeze(1)).squeeze(1) for part, some in
                 zip(parts, classes.split(max(1, _BLOCK // self.num_classes)), strict=True)]  # fmt: skip
        return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)

    def log_prob_at(self, rows: Tensor, classes: Tensor) -> Tensor:
        """One class's ln p of each row, from the log-sum-exp where it is known."""
        if self.lse is None:
            return self.log_probs(rows).gather(-1, classes.unsqueeze(-1)).squeeze(-1)
        return self._scaled(self.logits_at(rows, classes)) - self.lse[rows]

    def all_logits(self, rows: Tensor) -> Tensor:
        """Hidden · Wᵀ + b, rounded as the product rounds them."""
        problem, inner = self.problem, self.problem.extra_shape_product
        hidden = problem.hidden.detach().reshape(-1, problem.hidden.shape[-1])[rows // inner]
        bias = None if problem.bias is None else problem.bias.detach()
        logits = torch.nn.functional.linear(hidden, problem.weight.detach(), bias)
        if inner > 1:
            logits = logits.reshape(len(rows), self.num_classes, inner)
            logits = logits.gather(2, (rows % inner).reshape(-1, 1, 1).expand(-1, self.num_classes, 1)).squeeze(2)
        return logits.double().cpu()

    def _scaled(self, logits: Tensor) -> Tensor:
        from xent.backends.reference.cross_entropy import scaled_logits

        return scaled_logits(logits, self.problem.terms, torch.float64)

    def slope(self, rows: Tensor) -> Tensor | float:
        scale, cap = self.problem.terms.logit_scale, self.problem.terms.softcap
        return scale if cap is None else scale * (1 - (self._scaled(self.all_logits(rows)) / cap).square())


@dataclass(eq=False)
class BinaryScores(Scores):
    """Elements of a binary loss: two classes, 0 and 1, for each."""

    input: Tensor
    is_logits: bool

    def __post_init__(self) -> None:
        self.input = self.input.detach()
        self.row_shape, self.num_classes = tuple(self.input.shape), 2

    def _elements(self, rows: Tensor) -> Tensor:
        index = unravel(rows, self.row_shape)
        return self.input[index].double().cpu() if index else self.input.double().cpu().reshape(1)

    def log_probs(self, rows: Tensor) -> Tensor:
        x = self._elements(rows)
        if self.is_logits:
            log_sigmoid = torch.nn.functional.logsigmoid
            return torch.stack([log_sigmoid(-x), log_sigmoid(x)], -1)
        return torch.stack([(-x).log1p().clamp(min=-100), x.log().clamp(min=-100)], -1)

    def logits_at(self, rows: Tensor, classes: Tensor) -> Tensor | None:
        del classes
        return self._elements(rows) if self.is_logits else None

    def all_logits(self, rows: Tensor) -> Tensor | None:
        if not self.is_logits:
            return None
        x = self._elements(rows)
        return torch.stack([torch.zeros_like(x), x], -1)
