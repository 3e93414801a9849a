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
    differing = ((given != made) & ~(given.isnan() & made.isnan())).reshape(-1).nonzero().squeeze(1)
    flat, ulps, apart = 0, 0.0, 0
    if len(differing):  # the spacing costs logarithms: only where it is asked for
        steps = _ulps(*(dense_values(one).reshape(-1)[differing] for one in (before, given, made)))
        worst = int(steps.argmax())
        flat, ulps, apart = int(differing[worst]), float(steps[worst]), int((steps > ULPS_OF_EQUALS).sum())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), given.shape)) if given.dim() else ()
    return StepEquality(
        ulps, apart, given.numel(), place, float(given.reshape(-1)[flat]), float(made.reshape(-1)[flat])
    )


def _ulps(before: Tensor, after: Tensor, derived: Tensor) -> Tensor:
    """The distance of entries that differ."""
    start, exact, found = before.double(), after.double(), derived.double()
    size = torch.maximum(torch.maximum(start.abs(), exact.abs()), (exact - start).abs())
    steps = (exact - found).abs() / spacing(size.nan_to_num(nan=0.0, posinf=0.0), after.dtype)
    return steps.nan_to_num(nan=float("inf"), posinf=float("inf"))
