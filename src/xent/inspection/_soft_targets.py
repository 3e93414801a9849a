"""Probability targets as the graph holds them: factors of the log-probabilities, read in the rows asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._class_sums import factor_rows
from xent.inspection._expressions import Expression
from xent.inspection._leaves import ClassSums, leaf_rows

_SMALL = 1 << 22  # factors that are looked through for one-hot rows


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """What multiplies ln p.

    Attributes:
        probabilities: rows → (m, C).
        class_weight: factors that are the same in every row, (C,), or None.
        classes: the class of each row if every row is one-hot, else None.
        scale: what makes a sum without factors a distribution, 1 / C; None otherwise.
        counted: False where every factor of a row is 0.
    """

    probabilities: Callable[[Tensor], Tensor]
    class_weight: Tensor | None = None
    classes: Tensor | None = None
    scale: float | None = None
    counted: Tensor | None = None


def soft_targets(leaf: ClassSums, class_dim: int) -> SoftTargets:
    """The targets of a sum over classes."""
    shape, num_classes = leaf.base.shape, leaf.base.shape[class_dim]
    of_class = [factor for factor in leaf.factors if _is_of_class(factor, shape, class_dim)]
    of_rows = [factor for factor in leaf.factors if factor not in of_class]
    if not of_rows and len(of_class) == 1:  # one distribution for all rows is a target, not a weight
        of_class, of_rows = [], of_class
    weight = None
    for factor in of_class:
        profile = factor_rows(factor, shape, class_dim, torch.zeros(1, dtype=torch.int64)).reshape(-1)
        weight = profile if weight is None else weight * profile
    if not of_rows:
        return SoftTargets(lambda rows: torch.full((len(rows), num_classes), 1 / num_classes).double(), weight,
                           scale=1 / num_classes)  # fmt: skip

    def probabilities(rows: Tensor) -> Tensor:
        product = torch.ones(len(rows), num_classes, dtype=torch.float64)
        for factor in of_rows:
            product = product * factor_rows(factor, shape, class_dim, rows)
        return product

    count = torch.Size(leaf_rows(leaf.base, class_dim)).numel()
    if count * num_classes > _SMALL or not count:
        return SoftTargets(probabilities, weight)
    whole = probabilities(torch.arange(count))
    counted = (whole != 0).any(1)
    one_hot = bool((((whole == 0) | (whole == 1)).all(1) & (whole.sum(1) <= 1)).all()) and bool(counted.any())
    if one_hot and weight is None:
        return SoftTargets(probabilities, None, torch.where(counted, whole.argmax(1), -1), counted=counted)
    return SoftTargets(probabilities, weight, counted=counted)


def _is_of_class(factor: Expression, shape: tuple[int, ...], class_dim: int) -> bool:
    full = (1,) * (len(shape) - len(factor.shape)) + factor.shape
    return all(size == 1 for dim, size in enumerate(full) if dim != class_dim) and any(
        table_size != 1 for dim, table_size in enumerate(shape) if dim != class_dim
    )
