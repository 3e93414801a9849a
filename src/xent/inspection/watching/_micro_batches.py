"""The losses of one step: a micro-batch for each backward pass, the calls before it added up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from xent.inspection.examination._events import LossCall
from xent.inspection.watching._loss_numbers import LossNumbers, Ruler, numbers_of


@dataclass
class MicroBatches:
    """What the losses of a step come to.

    Attributes:
        closed: those whose backward pass began.
    """

    closed: list[dict[str, float | None]] = field(default_factory=list)
    _open: list[LossNumbers] = field(default_factory=list)
    _all: list[LossNumbers] = field(default_factory=list)
    _roots: list[float] = field(default_factory=list)

    def add(self, call: LossCall, ruler: Ruler) -> None:
        """A loss was called."""
        numbers = numbers_of(call)
        if numbers is not None:
            ruler.saw(numbers)
            self._open.append(numbers)
            self._all.append(numbers)

    def close(self, roots: Any) -> None:
        """A backward pass begins at some tensors."""
        if self._open:
            self.closed.append(_summed(self._open))
        else:
            self._roots.append(_value(roots))
        self._open = []

    @property
    def is_empty(self) -> bool:
        """Whether there was neither a loss nor a backward pass."""
        return not self._all and not self._roots

    def rows_in(self, seconds: float) -> float | None:
        """Rows a second that count, of all losses; None where no loss said how many it has."""
        return sum(each.rows for each in self._all) / (seconds or 1.0) if self._all else None

    def to_dict(self) -> dict[str, Any]:
        """The fields of the record."""
        whole = _summed(self._all) if self._all else {"sum_nll": None, "count": None}
        total, count = whole["sum_nll"], whole["count"]
        loss = total / count if total is not None and count else None
        if not self._all and self._roots:  # a loss that no known function made: the value backward began at
            loss = sum(self._roots) / len(self._roots)
        right = [each.num_correct for each in self._all]
        rows = sum(each.rows for each in self._all)
        known = [each for each in right if each is not None]
        return {
            "loss": loss,
            **whole,
            **({"micro_batches": self.closed} if len(self.closed) > 1 else {}),
            "accuracy": sum(known) / rows if rows and len(known) == len(right) else None,
        }


def _summed(some: list[LossNumbers]) -> dict[str, float | None]:
    return {"sum_nll": sum(each.sum_nll for each in some), "count": sum(each.count for each in some)}


def _value(roots: Any) -> float:
    several = [roots] if isinstance(roots, Tensor) else list(roots)
    try:
        return sum(float(each.detach()) for each in several if isinstance(each, Tensor) and each.numel() == 1)
    except (RuntimeError, TypeError, ValueError):  # a subclass whose value can't be read here
        return math.nan
