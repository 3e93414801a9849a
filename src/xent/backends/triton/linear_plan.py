"""How a linear + cross-entropy is cut: so many rows at a time as their logits fit the memory bound.

    memory beside inputs and gradients = rows · C · K · item  +  ten numbers for each of all rows, at most

Three products of rows × classes × features. A chunk of fewer than `_FEWEST` rows would read the linear weight more
often than it is worth; the recompute kernels, which hold no logits at all, take its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xent.errors import BackendError
from xent.head import HeadRows

_DEFAULT = 512 << 20
_FEWEST = 32
_NUMBERS = 10  # of a row, in the dtype of the statistics: its values, its upstream gradient, its weight
_STEP = 128  # rows of a tile of cuBLAS: a chunk is a multiple of it where it can


@dataclass(frozen=True)
class Plan:
    """Rows at a time; 0 where no logits are held."""

    rows: int
    memory: int

    def __str__(self) -> str:
        size = f"{self.memory / 2**20:.1f} MiB beside inputs and gradients"
        return f"{self.rows} rows at a time, {size}" if self.rows else f"no logits held, {size}"


def plan_of(problem: HeadRows) -> Plan:
    """The plan of a problem: one for values and for gradients, so that they see the same logits."""
    count = problem.hidden.shape[:-1].numel()
    width, item = problem.weight.shape[0], problem.hidden.element_size()
    return plan(count, width, item, problem.max_memory, problem.extra_shape)


def plan(count: int, width: int, item: int, max_memory: int | None, extra: tuple[int, ...] = ()) -> Plan:
    """The plan for so many hidden states, with so many logits each, of so many bytes; `extra` is (d1, …, dK)."""
    bound = _DEFAULT if max_memory is None else max_memory
    numbers = count * math.prod(extra) * _NUMBERS * max(item, 4)
    fit = max(bound - numbers, 0) // max(width * item, 1)
    rows = min(count, fit if fit < _STEP else fit // _STEP * _STEP)
    if rows >= min(count, _FEWEST):
        return Plan(max(rows, 1), rows * width * item)
    if not extra:
        return Plan(0, 0)
    raise BackendError(
        f"max_memory={bound} bytes",
        f"{_FEWEST} rows of K-dimensional logits take {_FEWEST * width * item} bytes, and need to be held",
        "raise max_memory",
    )
