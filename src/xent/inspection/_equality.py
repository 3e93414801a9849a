"""Whether the value derived anew is the tensor's value, counted in units in the last place (ulp) of its dtype.

The derived sum is exact: float64, rounded once. torch adds numbers of the loss's own dtype one to the other, so that
its sum may be further from the exact one than 2 ulp where rows are many or the dtype is narrow. How far rounding can
carry it is bounded (Higham, *Accuracy and Stability of Numerical Algorithms*, 4.2, for sums in blocks):

    |error| ≤ (⌈log₂ n⌉ + 4 + k) · u · Σ |upstream · cost|        u: half the spacing of the dtype at 1

for k additions one after the other, as a loop makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._leaves import Leaf, Whole
from xent.problem import HALF
from xent.report._numbers import number

ULPS_OF_EQUALS = 2


@dataclass(frozen=True)
class Equality:
    """The tensor's value beside the derived one.

    Attributes:
        value: the tensor's (of the element that is furthest off, where there are several).
        derived: the same, derived in float64.
        ulps: steps of the dtype between the tensor's value and the derived one, rounded to the dtype.
        allowed: the difference that rounding explains.
        dtype: the tensor's.
        rounded_in: the dtype in which ulps are counted: the one with the fewest digits that the value went through.
        made_by: "torch" or "xent".
        elements: how many values were compared.
        reach: Σ |cost|, before factors and denominators.
    """

    value: float
    derived: float
    ulps: float
    allowed: float
    dtype: torch.dtype
    made_by: str = "torch"
    elements: int = 1
    reach: float = 0.0
    rounded_in: torch.dtype | None = None

    @property
    def difference(self) -> float:
        """The tensor's value less the derived one; 0 where both are the same infinity, or NaN."""
        if self.value == self.derived or (math.isnan(self.value) and math.isnan(self.derived)):
            return 0.0
        return self.value - self.derived

    @property
    def holds(self) -> bool:
        """Whether the two are equal to within 2 ulp."""
        return self.ulps <= ULPS_OF_EQUALS

    @property
    def is_rounding(self) -> bool:
        """Whether the two differ by more than 2 ulp, and by no more than rounding in the loss's dtype explains."""
        return not self.holds and (abs(self.difference) <= self.allowed or self.is_overflow)

    @property
    def is_overflow(self) -> bool:
        """Whether the tensor is an infinity because its dtype ends before the sum of its rows does."""
        return math.isinf(self.value) and math.isfinite(self.derived) and self.reach > 0.99 * _end(self._counted_in)

    @property
    def _counted_in(self) -> torch.dtype:
        return self.rounded_in or self.dtype

    @property
    def explained(self) -> bool:
        """Whether nothing is left to explain."""
        return self.holds or self.is_rounding

    def __str__(self) -> str:
        counted_in = self._counted_in
        dtype = str(counted_in).removeprefix("torch.")
        if self.holds and not self.is_overflow:
            named = f" of {dtype}" if counted_in in HALF or counted_in != self.dtype else ""
            return f"equal ({self.ulps:.0f} ulp{named})"
        if self.is_overflow:
            return f"{dtype} ends at {number(_end(counted_in), 0)}: the sum of the rows overflowed"
        if self.is_rounding:
            exact = "" if counted_in == torch.float64 else ", the derived one is exact"
            return (
                f"{self.ulps:.0f} ulp apart, by {number(self.difference)}: sums in {dtype} may be off by "
                f"{number(self.allowed)}{exact}"
            )
        return f"NOT EQUAL: {number(self.difference)} of it is not explained"


@dataclass(frozen=True)
class Magnitude:
    """How large the numbers are that were added.

    Attributes:
        total: Σ |upstream · cost|; for losses made from logits 1 more for each row: ln Σ exp is rounded as a number
            near 1 is, however small the row's loss.
        reach: the same before factors and denominators, where a narrow dtype may have overflowed.
    """

    total: float
    reach: float


def magnitude_of(leaves: Sequence[Leaf], factors: Sequence[Tensor], each: bool = False) -> Magnitude:
    """The magnitude of everything that enters a value; `each`: of the largest of several values, one for each row."""
    total = reach = 0.0
    whole = (lambda values: values.max() if values.numel() else values.sum()) if each else torch.sum
    for leaf, factor in zip(leaves, factors, strict=True):
        values = leaf.values.detach().reshape(-1).abs()
        values = torch.where(values.isfinite(), values, 0.0)
        reach += float(whole(values))
        if isinstance(leaf, Whole):
            values = (values + _rounded_beside(leaf)) * _largest_weight(leaf)
        product = values * factor.reshape(-1).abs()
        total += float(whole(torch.where(product.isfinite(), product, 0.0)))
    return Magnitude(total, reach)


def _rounded_beside(leaf: Whole) -> Tensor | float:
    """What is rounded beside the row's loss: 1 + |x| for binary losses, which torch makes of (1 − t)·x and softplus."""
    if leaf.kind == "binary_cross_entropy_with_logits":
        return 1.0 + leaf.problem.input.detach().double().cpu().reshape(-1).abs()
    return 1.0


def _largest_weight(leaf: Whole) -> float:
    terms = getattr(leaf.problem, "terms", leaf.problem)
    weights = [getattr(terms, name, None) for name in ("weight", "row_weight", "pos_weight")]
    largest = 1.0
    for weight in weights:
        if weight is not None and weight.numel():
            largest *= max(float(weight.detach().abs().max()), 1.0)
    return largest


@dataclass(frozen=True)
class Sums:
    """How a value was added up.

    Attributes:
        size: of the numbers that were added.
        count: of them.
        made_by: "torch" or "xent".
        additions: one after the other, not in blocks: each may be off by u.
        rounded_in: the dtype with the fewest digits on the way; None for the tensor's own.
    """

    size: Magnitude
    count: int
    made_by: str
    additions: int = 0
    rounded_in: torch.dtype | None = None


def compared(value: Tensor, derived: Tensor, sums: Sums) -> Equality:
    """Compare the tensor with the derived values of its shape."""
    made_by, dtype = sums.made_by, sums.rounded_in or value.dtype
    given, found = value.detach().reshape(-1).cpu(), derived.detach().reshape(-1).double()
    if not given.numel():
        return Equality(0.0, 0.0, 0.0, 0.0, value.dtype, made_by, 0)
    steps = _ulps(given, found, dtype)
    worst = int(steps.argmax())
    depth = math.ceil(math.log2(max(sums.count, 2))) + 4 + sums.additions
    allowed = depth * torch.finfo(dtype).eps / 2 * sums.size.total
    return Equality(
        float(given[worst].double()), float(found[worst]), float(steps[worst]), allowed, value.dtype, made_by,
        given.numel(), sums.size.reach, None if dtype == value.dtype else dtype,
    )  # fmt: skip


def _end(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).max)


def _ulps(given: Tensor, found: Tensor, dtype: torch.dtype) -> Tensor:
    """Steps of `dtype` between each pair; 0 for equal infinities and for NaN beside NaN."""
    exact = given.double()
    rounded = found.to(given.dtype).double()
    size = torch.maximum(exact.abs(), rounded.abs()).clamp(min=torch.finfo(given.dtype).smallest_normal)
    spacing = torch.exp2(torch.floor(torch.log2(size))) * torch.finfo(dtype).eps
    steps = ((exact - rounded).abs() / spacing).round()
    same = (exact == rounded) | (exact.isnan() & rounded.isnan())
    return torch.where(same, 0.0, steps.nan_to_num(nan=float("inf"), posinf=float("inf")))
