"""What a contest must show, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["speedup", "times", "extra_memory", "beyond_gradients", "error", "error_times"]
_MIB = 2**20


@dataclass(frozen=True)
class Need:
    """One bound on one contestant.

    Attributes:
        kind: "speedup" (≥, time of `against` / own time), "times" (≤, own time / time of `against`),
            "extra_memory" (≤, peak extra bytes), "beyond_gradients" (≤, the same less the gradients),
            "error" (≤, gradient error), "error_times" (≤, own error / that of `against`).
        bound: the number.
        against: the other contestant, where there is one.
        of: the contestant.
        unit: bytes that an "extra_memory" is shown in multiples of, such as the size of the logits.
    """

    kind: Kind
    bound: float
    against: str = ""
    of: str = "xent"
    unit: int = 0

    def verdict(self, contestants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The bound, what was measured, and whether it is reached: None where one of the two was not measured."""
        value = self._value(contestants)
        reached = None if value is None else value >= self.bound if self.kind == "speedup" else value <= self.bound
        sign = self._sign(contestants.get(self.against, {}))
        if sign and not reached:  # who was stopped may be slower still
            reached = None
        rounded = None if value is None else float(f"{value:.4g}")
        return {
            "of": self.of,
            "kind": self.kind,
            "against": self.against,
            "text": self.text,
            "bound": self.bound,
            "value": rounded,
            "reached": reached,
            "shown": "not measured" if value is None else sign + self._shown(value),
        }

    @property
    def text(self) -> str:
        """The bound in words."""
        bound = self._shown(self.bound)
        match self.kind:
            case "speedup":
                return f"≥ {bound} the speed of {self.against}"
            case "times":
                return f"≤ {bound} the time of {self.against}"
            case "extra_memory":
                return f"extra memory ≤ {bound}"
            case "beyond_gradients":
                return f"memory beyond gradients ≤ {bound}"
            case "error":
                return f"gradient error ≤ {bound}"
            case "error_times":
                return f"gradient error ≤ {bound} that of {self.against}"

    def _value(self, contestants: Mapping[str, Mapping[str, Any]]) -> float | None:
        own, other = contestants.get(self.of, {}), contestants.get(self.against, {})
        match self.kind:
            case "speedup":
                return _quotient(*reversed(self._times(own, other)))
            case "times":
                return _quotient(*self._times(own, other))
            case "extra_memory":
                return own.get("extra_bytes")
            case "beyond_gradients":
                return own.get("beyond_gradients_bytes")
            case "error":
                return own.get("gradient_error")
            case "error_times":
                return _quotient(own.get("gradient_error"), other.get("gradient_error"))

    def _times(self, own: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Both of one run, where they were measured side by side; nothing is said of who was stopped itself."""
        own_ms = own.get("median_ms", own.get("single_ms"))
        if self.against in own.get("beside", {}):
            return own_ms, own["beside"][self.against]
        return other.get("beside", {}).get(self.of, own_ms), _time(other)

    def _sign(self, other: Mapping[str, Any]) -> str:
        """What stands before a ratio to one who was stopped."""
        if self.kind not in ("speedup", "times") or _time(other) != other.get("at_least_ms", math.nan):
            return ""
        return "≥ " if self.kind == "speedup" else "≤ "

    def _shown(self, value: float) -> str:
        if self.kind == "error":
            return f"{100 * value:.3g} %"
        if self.kind in ("extra_memory", "beyond_gradients"):
            return f"{value / self.unit:.2f}× logits" if self.unit else f"{value / _MIB:.0f} MiB"
        return f"{value:.2f}×"


def _time(record: Mapping[str, Any]) -> float | None:
    """The median, or the one call of a contestant that was over the time limit, or how long it ran until stopped."""
    return record.get("median_ms", record.get("single_ms", record.get("at_least_ms")))


def _quotient(top: float | None, bottom: float | None) -> float | None:
    return top / bottom if top is not None and bottom else None
