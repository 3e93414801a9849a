"""What a loss is folded from: picked log-probabilities, sums over classes, log-sum-exps, whole problems of xent.

Each leaf has `values` (float64), from which the fold is made again; the derivative of the fold with respect to them
says with which factor each one enters the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xent.inspection._expressions import Expression, Index, Known
from xent.inspection._nodes import Edge

ENTROPY = "entropy of the predictions, Σ −p ln p"
LOGSUMEXP = "log-sum-exp of the logits"
DIVERGENCE = "− entropy of the targets (a Kullback–Leibler divergence)"


@dataclass(eq=False)
class LogProbabilities(Known):
    """The result of a log-softmax, with what stands behind it."""

    class_dim: int = 0
    behind: Edge | None = None


@dataclass(eq=False)
class Leaf:
    """Numbers that enter the loss.

    Attributes:
        values: float64, of the shape in which the graph goes on with them.
    """

    values: Tensor

    def __post_init__(self) -> None:
        self.values = self.values.detach().double().cpu().requires_grad_()


@dataclass(eq=False)
class Picks(Leaf):
    """Elements of a table, one class of one row each."""

    base: Expression
    class_dim: int
    places: Index
    counted: Tensor | None = None  # False where ignored
    weight: Tensor | None = None  # class weight of the target, as the graph multiplied it
    class_weight: Tensor | None = None
    ignore_index: int | None = None
    reduction: str | None = None
    name: str = ""


@dataclass(eq=False)
class ClassSums(Leaf):
    """Σ_c factor · table for every row of a table."""

    base: Expression
    class_dim: int
    factors: list[Expression] = field(default_factory=list)


@dataclass(eq=False)
class LogSumExps(Leaf):
    """The log-sum-exp of every row of logits, or its square."""

    base: Expression
    class_dim: int
    squared: bool = False


@dataclass(eq=False)
class Whole(Leaf):
    """The rows of a loss that the graph holds as one problem: xent's own, or torch's binary ones."""

    kind: str
    problem: Any
    lse: Tensor | None = None
    reduction: str | None = None


@dataclass(eq=False)
class Other(Leaf):
    """A quantity that is no cross-entropy and could be made again; `written`: what it is, if not what its node says."""

    edge: Edge
    written: str = ""


def leaf_rows(base: Expression, class_dim: int) -> tuple[int, ...]:
    """The shape of a table without its classes."""
    return base.shape[:class_dim] + base.shape[class_dim + 1 :]


def row_places(count: int) -> Tensor:
    """0 … count − 1."""
    return torch.arange(count)
