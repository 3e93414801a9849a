"""Where a step's time goes: what runs between two events belongs to what the second one ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

PHASES = ("data", "forward", "loss", "backward", "step", "other")


@dataclass
class Clock:
    """The seconds of one step, the recording's own work left out.

    Attributes:
        seconds: of each phase.
        own: of the recording itself, by what it was for ("plain", "layers", "rows", "ledger").
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    own: dict[str, float] = field(default_factory=dict)
    _mark: float | None = field(default_factory=time.perf_counter)

    def until(self, moment: float, phase: str) -> None:
        """The time since the last event was `phase`'s."""
        if self._mark is not None:
            self.seconds[phase] += max(0.0, moment - self._mark)
        self._mark = moment

    def wait(self) -> None:
        """What comes before the next event is nobody's: a program that starts up, an evaluation."""
        self._mark = None

    def rest(self, kind: str) -> None:
        """The time since the last event was the recording's own."""
        now = time.perf_counter()
        self.own[kind] = self.own.get(kind, 0.0) + (0.0 if self._mark is None else now - self._mark)
        self._mark = now

    @property
    def total(self) -> float:
        """All seconds of the program."""
        return sum(self.seconds.values())
