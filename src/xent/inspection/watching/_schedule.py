"""Which steps are recorded: as many as a share of the run's time pays for, or every n-th.

    plain   loss, ruler, denominators, times       at most 0.7 % of the time, gap ≥ step ÷ 500
    layers  norms and dead units                   at most 0.2 %,             gap ≥ step ÷ 40
    rows    classes, calibration, worst rows, text at most 0.2 %,             gap ≥ step ÷ 12
    ledger  the step taken apart                   at most 0.2 %,             gap ≥ step ÷ 3

Steps 1, 2, 3, 4, 6, 8, 11, 16, … 2048 of a process (powers of √2) have their plain record and their layers in any case:
a run of a few dozen steps would have hardly any otherwise. At five of them (powers of 4 to 1024) so have the rows:
those of step 2 say nothing of what a short run came to. They count towards the shares.

Ranks of one run must record the same steps, or their sums could not be added, and no two have the same clock. So with
several processes the number of the step decides, and nothing else: every step to 127, then 64 between a power of two
and the next (layers 16, rows 4, the ledger 1).

The shares are those of steps shorter than 10 ms; longer ones get a quarter of them. The gaps make the number of
records grow with the logarithm of the steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

KINDS = ("plain", "layers", "rows", "ledger")
_CHEAP = ("plain", "layers")
_SHARES = {"plain": 0.007, "layers": 0.002, "rows": 0.002, "ledger": 0.002}
_FEWEST_BETWEEN = {"plain": 500, "layers": 40, "rows": 12, "ledger": 3}
_SHORT_STEP = 0.010
_SHARE_OF_LONG_STEPS = 0.25
_OPENING = frozenset(round(2 ** (power / 2)) for power in range(23))
_OPENING_ROWS = frozenset((4, 16, 64, 256, 1024))
_OF_AN_OCTAVE = {"plain": 64, "layers": 16, "rows": 4, "ledger": 1}  # powers of two: what is rarer falls on what is not
_AT_MOST = 2  # times its best: what else a record took was somebody else's time on the processor


@dataclass
class _Account:
    """One kind's time.

    Attributes:
        best: seconds that it took when nothing came between.
        last_step: when it was recorded last.
        due_at: the moment from which the next one is paid for.
    """

    best: float = float("inf")
    last_step: int = 0
    due_at: float = 0.0


@dataclass
class Schedule:
    """When what is recorded.

    Attributes:
        every: record every so many steps, whatever it costs; None for what the shares pay for.
        kinds: those that are recorded at all.
        first_step: where this process begins; it is recorded in full, and its time is nobody's.
        by_number: whether the step's number alone decides, because other ranks must come to the same.
    """

    every: int | None
    kinds: tuple[str, ...] = KINDS
    first_step: int = 1
    by_number: bool = False
    _began_at: float = field(default_factory=time.perf_counter)
    _accounts: dict[str, _Account] = field(default_factory=lambda: {kind: _Account() for kind in KINDS})

    def due(self, step: int, thinning: int) -> tuple[str, ...]:
        """What step number `step` will be recorded in; () for nothing. Without "plain" there is nothing else."""
        if step == self.first_step:
            return self.kinds
        if self.by_number and self.every is None:
            return tuple(kind for kind in self.kinds if step % _stride(kind, step, thinning) == 0)
        if self.every is None and step - self.first_step + 1 in _OPENING:
            opening = (*_CHEAP, "rows") if step - self.first_step + 1 in _OPENING_ROWS else _CHEAP
            return tuple(kind for kind in self.kinds if kind in opening or self._is_due(kind, step, thinning))
        plain = self._accounts["plain"]
        if self.every is None and time.perf_counter() < plain.due_at:
            return ()
        if not self._is_due("plain", step, thinning):
            return ()
        return tuple(kind for kind in self.kinds if kind == "plain" or self._is_due(kind, step, thinning))

    def _is_due(self, kind: str, step: int, thinning: int) -> bool:
        account, now = self._accounts[kind], time.perf_counter()
        if self.every is not None and kind in _CHEAP:
            return step % (self.every * thinning) == 0
        gap = max(1, step // _FEWEST_BETWEEN[kind]) * thinning
        return step - account.last_step >= gap and (self.every is not None or now >= account.due_at)

    def began(self) -> None:
        """The first step is over: from here on time is counted."""
        self._began_at = time.perf_counter()

    def took(self, kind: str, step: int, seconds: float) -> None:
        """Account for a record; not for those of the first, whose first calls cost what no later ones do."""
        account = self._accounts[kind]
        account.last_step = step
        if step == self.first_step:
            return
        account.best = min(account.best, seconds)
        now = time.perf_counter()
        mean_step = (now - self._began_at) / (step - self.first_step)
        share = _SHARES[kind] * (1.0 if mean_step < _SHORT_STEP else _SHARE_OF_LONG_STEPS)
        account.due_at = now + min(seconds, _AT_MOST * account.best) / share


def _stride(kind: str, step: int, thinning: int) -> int:
    return thinning << max(0, (step // _OF_AN_OCTAVE[kind]).bit_length() - 1)
