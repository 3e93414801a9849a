"""What was done to the gradients between backward and step, read from their values: scaled, clamped, or otherwise.

`clip_grad_norm_` multiplies every gradient by the same number, `clip_grad_value_` sets what lies beyond ±v to ±v. Both
show in the numbers alone, whoever did it and however it was imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._tensor_copies import dense_values, same_bits, spacing
from xent.report._numbers import factor, number

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class GradientChange:
    """A change of all gradients of an optimizer.

    Attributes:
        kind: "scaled", "clamped" or "other".
        value: the factor, or the largest size left.
        norm_before: of all gradients together, as backward left them (unscaled).
        norm_after: as step() got them.
        changed: entries that were changed.
        count: entries in all.
    """

    kind: str
    value: float
    norm_before: float
    norm_after: float
    changed: int
    count: int

    def __str__(self) -> str:
        norms = f"norm {number(self.norm_before)} → {number(self.norm_after)}"
        if self.kind == "scaled":
            as_clipping = f", as clip_grad_norm_(…, {self.norm_after:.4g}) would" if self.value < 1 else ""
            return f"every gradient × {factor(self.value)} between backward and step: {norms}{as_clipping}"
        if self.kind == "clamped":
            return (
                f"{self.changed:,} of {self.count:,} gradient entries set to ±{factor(self.value)} between backward "
                f"and step: {norms}, as clip_grad_value_(…, {factor(self.value)}) would"
            )
        return (
            f"{self.changed:,} of {self.count:,} gradient entries changed between backward and step, by no common "
            f"factor and no clamp: {norms}"
        )


def change_between(pairs: Sequence[Pair]) -> GradientChange | None:
    """What makes the second of every pair of the first; None where they are the same."""
    if all(same_bits(one, other) for one, other in pairs):
        return None
    numbers = [(dense_values(one), dense_values(other)) for one, other in pairs]
    if any(one.shape != other.shape for one, other in numbers):
        numbers = [(one, other) for one, other in numbers if one.shape == other.shape]
    changed = sum(int((one != other).sum()) for one, other in numbers)
    count = sum(one.numel() for one, _ in numbers)
    norms = _norm([one for one, _ in numbers]), _norm([other for _, other in numbers])
    scale = _scale(numbers)
    if scale is not None:
        return GradientChange("scaled", scale, *norms, changed, count)
    limit = max((float(other.abs().max()) for _, other in numbers if other.numel()), default=0.0)
    if all(torch.equal(one.clamp(-limit, limit), other) for one, other in numbers):
        return GradientChange("clamped", limit, *norms, changed, count)
    return GradientChange("other", 0.0, *norms, changed, count)


def _norm(tensors: Sequence[Tensor]) -> float:
    squares = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2 for tensor in tensors]
    return sum(squares) ** 0.5


def _scale(pairs: Sequence[Pair]) -> float | None:
    """The one factor between the pairs, within two roundings of their dtype; None where there is none."""
    top = sum(float((one.double() * other.double()).sum()) for one, other in pairs)
    bottom = sum(float(one.double().square().sum()) for one, _ in pairs)
    if not bottom or not (0 < top / bottom < float("inf")):
        return None
    scale = top / bottom
    for one, other in pairs:
        exact = one.double() * scale
        if bool(((exact - other.double()).abs() > 2 * spacing(exact, one.dtype)).any()):
            return None
    return scale
