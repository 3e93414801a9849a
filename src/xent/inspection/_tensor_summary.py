"""A tensor in a few numbers: mean size, norm, ends, zeros, and how its entries are spread."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from xent.inspection._tensor_copies import dense_values

BINS = 11  # odd: zero lies in the middle of the middle one
_BLOCK = 1 << 15  # entries: what is made of them stays in the cache, and one thread has them
_HEIGHTS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Summary:
    """The entries of a tensor, in float64.

    Attributes:
        count: entries, those that a sparse tensor leaves out included.
        mean_abs: mean of |x|.
        norm: √Σx².
        least: the smallest entry.
        largest: the largest entry.
        zeros: share of entries that are 0.
        not_finite: how many are NaN or infinite; the rest is then of all entries and may be NaN.
        end: largest finite |x|: the histogram goes from −end to end.
        histogram: finite entries in each of 11 equal bins.
    """

    count: int
    mean_abs: float
    norm: float
    least: float
    largest: float
    zeros: float
    not_finite: int
    end: float
    histogram: tuple[int, ...]

    @property
    def sparkline(self) -> str:
        """The histogram from −end to end as one character a bin; an empty bin is a space."""
        most = max(self.histogram, default=0)
        return "".join(_HEIGHTS[(count * 8 - 1) // most] if count else " " for count in self.histogram) if most else ""

    def to_dict(self) -> dict[str, Any]:
        """The numbers."""
        return asdict(self) | {"histogram": list(self.histogram)}


@torch.no_grad()
def summary(tensor: Tensor) -> Summary:
    """The summary of a tensor of any dtype, sparse and complex ones included (as pairs)."""
    count = tensor.numel() * (2 if tensor.is_complex() else 1)
    values = dense_values(tensor.detach()).reshape(-1)
    if not values.numel():
        return Summary(count, 0.0, 0.0, 0.0, 0.0, 1.0 if count else 0.0, 0, 0.0, (0,) * BINS)
    least, largest = values.aminmax()
    held = values.numel()
    absent = count - held
    not_finite, kept, end = 0, values, max(abs(float(least)), abs(float(largest)))
    if not math.isfinite(end):  # aminmax passes NaN on
        finite = values.isfinite()
        not_finite, kept = held - int(finite.sum()), values[finite]
        end = float(kept.abs().max()) if kept.numel() else 0.0
    zeros = held - int(torch.count_nonzero(values)) + absent
    return Summary(
        count, _norm(values, 1) / count, _norm(values, 2), min(float(least), 0.0) if absent else float(least),
        max(float(largest), 0.0) if absent else float(largest), zeros / count,
        not_finite, end, _histogram(kept, end),
    )  # fmt: skip


def _norm(values: Tensor, order: int) -> float:
    return float(torch.linalg.vector_norm(values, order, dtype=torch.float64))


def _histogram(values: Tensor, end: float) -> tuple[int, ...]:
    if not end:
        counts = [0] * BINS
        counts[BINS // 2] = values.numel()
        return tuple(counts)
    if end < 1e-30 or values.dtype not in (
        torch.float32,
        torch.float64,
    ):  # bins as wide as halves or subnormals can tell
        values, end = values.double() / end, 1.0
    counts = torch.zeros(BINS, dtype=torch.int64)
    for block in values.cpu().split(_BLOCK):  # torch.histc takes 14 ns an entry, this 3
        places = block.div(end).add_(1).mul_(BINS / 2).clamp_(max=BINS - 1).to(torch.uint8)
        counts += torch.bincount(places, minlength=BINS)
    return tuple(counts.tolist())
