"""Whether a step did what its gradient promised: predicted ΔL = Σ g·Δθ against the measured one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xent.report import Column, ResultTable

_COLUMNS = (
    Column("layer", "layer", "name"),
    Column("parameters", "parameters", "integer"),
    Column("entries", "entries", "integer"),
    Column("gradient", "‖gradient‖"),
    Column("update", "‖update‖"),
    Column("ratio", "÷ ‖θ‖", "percent"),
    Column("predicted", "promised ΔL"),
    Column("share", "share", "percent"),
)


@dataclass(frozen=True)
class Promise:
    """What the step promised the loss, and what it did.

    Attributes:
        predicted: Σ g·Δθ over all stepped parameters; g is the gradient of the loss as backward left it, not clipped
            and not scaled; Δθ what the step did, weight decay and momentum included.
        loss_before: the loss that backward was called on (the sum of several); None where none was seen.
        loss_after: the same after the step; None where it was not measured.
        resolution: what the loss's dtype can tell apart there.
        layers: a record of numbers for each layer, in the model's order.
    """

    predicted: float
    loss_before: float | None
    loss_after: float | None
    resolution: float
    layers: tuple[dict, ...]

    @property
    def measured(self) -> float | None:
        """Loss after less loss before."""
        if self.loss_after is None or self.loss_before is None:
            return None
        return self.loss_after - self.loss_before

    @property
    def ratio(self) -> float | None:
        """Measured ÷ predicted: near 1 where the step was small enough to be what the gradient says, negative where
        the loss moved the other way. None where it was not measured, or the promise is finer than the loss's digits.
        """
        if self.measured is None or abs(self.predicted) <= 2 * self.resolution or not math.isfinite(self.predicted):
            return None
        return self.measured / self.predicted

    def by_layer(self) -> ResultTable:
        """The promise of each layer, the largest first."""
        order = sorted(self.layers, key=lambda layer: -abs(layer["predicted"]))
        return ResultTable(tuple(order), _COLUMNS, "by layer · promised ΔL = Σ gradient · update")
