"""How a linear + cross-entropy is cut: so many rows at a time as their logits fit the memory bound.

    memory beside inputs and gradients = rows · (C · K · item + copies)  +  ten numbers for each of all rows  +  bias

Copies are made of hidden states and dense targets of a chunk whose rows do not lie in one stride, as those of a shifted
batch don't. A bias takes one more gradient while a chunk is added to it, and half ones a sum in float32.

Three products of rows × classes × features. A chunk of fewer than `_FEWEST` rows would read the linear weight more
often than it is worth; the recompute kernels, which hold no logits at all, take its place. These copy whole what does
not lie in one stride.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from xent.errors import BackendError
from xent.head import HeadRows, is_flat
from xent.problem import stats_dtype

_DEFAULT = 512 << 20
_FEWEST = 32
_NUMBERS = 10  # of a row, in the dtype of the statistics: its values, its upstream gradient, its weight
_GATHERED = 32  # bytes of a row that is copied, for each leading dimension: numbers of rows, and their quotients
_STEP = 128  # rows of a tile of cuBLAS: a chunk is a multiple of it where it can


@dataclass(frozen=True)
class Plan:
    """Rows at a time; 0 where no logits are held."""

    rows: int
    memory: int

    def __str__(self) -> str:
        size = f"{self.memory / 2**20:.1f} MiB beside inputs and gradients"
        return f"{self.rows} rows at a time, {size}" if self.rows else f"no logits held, {size}"


@dataclass(frozen=True)
class Beside:
    """Bytes beside the logits of a chunk: for each of its rows, and once."""

    row: int = 0
    once: int = 0


def plan_of(problem: HeadRows) -> Plan:
    """The plan of a problem: one for values and for gradients, so that they see the same logits."""
    count, width = problem.hidden.shape[:-1].numel(), problem.weight.shape[0]
    target = problem.target if problem.is_dense else None
    beside = beside_of(problem.hidden, problem.bias, target)
    return plan(count, width, problem.hidden.element_size(), problem.max_memory, problem.extra_shape, beside)


def beside_of(hidden: Tensor, bias: Tensor | None, dense_target: Tensor | None) -> Beside:
    """What the copies of a chunk and the sums of a bias take."""
    lead, row, once = hidden.ndim - 1, 0, 0
    if not (is_flat(hidden, lead) and hidden.stride(-1) == 1):
        row += hidden.shape[-1] * hidden.element_size() + _GATHERED * lead
    if dense_target is not None and not is_flat(dense_target, lead):
        row += dense_target.shape[lead:].numel() * dense_target.element_size()
    if bias is not None:
        wide = stats_dtype(bias.dtype)
        once = bias.numel() * wide.itemsize * (1 if bias.dtype == wide else 2)
    return Beside(row, once)


def plan(
    count: int, width: int, item: int, max_memory: int | None, extra: tuple[int, ...] = (), beside: Beside | None = None
) -> Plan:
    """The plan for so many hidden states, with so many logits each, of so many bytes; `extra` is (d1, …, dK)."""
    bound, beside = _DEFAULT if max_memory is None else max_memory, beside or Beside()
    numbers = count * math.prod(extra) * _NUMBERS * max(item, 4)
    fit = max(bound - numbers - beside.once, 0) // max(width * item + beside.row, 1)
    rows = min(count, fit if fit < _STEP else fit // _STEP * _STEP)
    if rows >= min(count, _FEWEST):
        return Plan(max(rows, 1), rows * (width * item + beside.row) + beside.once)
    if not extra:
        return Plan(0, 0)
    raise BackendError(
        f"max_memory={bound} bytes",
        f"{_FEWEST} rows of K-dimensional logits take {_FEWEST * width * item} bytes, and need to be held",
        "raise max_memory",
    )
