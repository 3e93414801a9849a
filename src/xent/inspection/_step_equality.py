"""Whether a step made again is the step that was made, counted in units in the last place of the parameter.

The unit is the spacing of the parameter's dtype at the largest of θ before, θ after and their difference: the last
operation adds the move to θ and can be no finer than its operands. torch's own implementations of one optimizer
(single, foreach, fused) agree with one another to a few such units, and not better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._tensor_copies import dense_values, spacing

ULPS_OF_EQUALS = 4


@dataclass(frozen=True)
class StepEquality:
    """A parameter after the step beside the one made again.

    Attributes:
        ulps: the largest distance.
        apart: entries further apart than 4 ulp.
        count: entries.
        worst: place of the largest distance.
        value: what stands there.
        derived: what the formula comes to there.
    """

    ulps: float
    apart: int
    count: int
    worst: tuple[int, ...] = ()
    value: float = 0.0
    derived: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every entry is within 4 ulp."""
        return not self.apart

    def __str__(self) -> str:
        if self.holds:
            return f"equal ({self.ulps:.0f} ulp)"
        return f"NOT EQUAL: {self.apart:,} of {self.count:,} entries are further than {ULPS_OF_EQUALS} ulp off"


@torch.no_grad()
def step_equality(before: Tensor, after: Tensor, derived: Tensor) -> StepEquality:
    """Compare what is there with what the formula comes to."""
    given, made = dense_values(after), dense_values(derived)
    if torch.equal(given, made):
        return StepEquality(0.0, 0, given.numel())
    start, exact, found = dense_values(before).double(), given.double(), made.double()
    size = torch.maximum(torch.maximum(start.abs(), exact.abs()), (exact - start).abs())
    steps = (exact - found).abs() / spacing(size.nan_to_num(nan=0.0, posinf=0.0), given.dtype)
    same = (exact == found) | (exact.isnan() & found.isnan())
    steps = torch.where(same, 0.0, steps.nan_to_num(nan=float("inf"), posinf=float("inf")))
    flat = int(steps.argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), steps.shape)) if steps.dim() else ()
    return StepEquality(
        float(steps.reshape(-1)[flat]), int((steps > ULPS_OF_EQUALS).sum()), steps.numel(), place,
        float(exact.reshape(-1)[flat]), float(found.reshape(-1)[flat]),
    )  # fmt: skip
