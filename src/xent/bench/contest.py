"""How a contest is timed.

All contestants live in one process and take turns, one stretch of calls per round, so that a machine that slows down
slows all of them; the second of two rounds has the order of the first backwards, and the next two begin with another,
so that nobody always goes first or always follows the same other. A stretch lasts at least `Pace.stretch_seconds`: a
call that takes longer is timed alone, and what it returned is freed outside of the timed part; shorter calls are timed
together. The median over rounds is the result, quartiles say how far to trust it.

A call of more than ten seconds that says how long a stretch must be is the first round of its contestant: it follows
a warm-up call as any other does, and minutes are scarce.

A timed call follows an untimed one of the same contestant, as one step of a training loop follows another. A virtual
machine gives pages that were free for two seconds back to its host (free page reporting), and the first touch of such
pages costs fifteen times that of others: without the call before, a contestant pays for what the others did meanwhile.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_ONE_IS_ENOUGH = 5.0  # seconds; the call that sizes the stretches is a second warm-up anyway
_COUNTS_FROM = 10.0  # seconds of a sizing call; from here on it is a round
_SETTLES_BELOW = 1.0  # seconds; a longer call pays for its fresh pages many times over, and itself lets them grow old


def _nothing() -> None: ...


@dataclass(frozen=True)
class Entry:
    """A contestant with its inputs, ready to run.

    Attributes:
        run: one call; what it returns is passed to the functions below.
        reset: makes the next call start afresh (drops gradients).
        loss: the loss of a call; None for a bare read, copy or product.
        gradients: the gradients of a call in the order of the inputs; None where none are made.
    """

    run: Callable[[], Any]
    reset: Callable[[], None] = _nothing
    loss: Callable[[Any], float] | None = None
    gradients: Callable[[Any], list[Tensor]] | None = None


@dataclass(frozen=True)
class Pace:
    """When a contest has rounds enough: at `max_rounds`, or after `seconds` once there are `min_rounds`."""

    min_rounds: int = 5
    max_rounds: int = 101
    seconds: float = 15.0
    stretch_seconds: float = 0.01
    pause_seconds: float = (
        0.005  # OpenMP threads spin for about a millisecond after their work: not into the next one's
    )


@dataclass
class Timing:
    """Seconds per call of one contestant, one number for each round; `settles`: after an untimed call."""

    calls_per_round: int
    settles: bool = False
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The result."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between them lies the middle half of the rounds."""
        if len(self.seconds) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Milliseconds, for the results file."""
        low, high = self.quartiles
        names = {"median_ms": self.median, "q1_ms": low, "q3_ms": high, "fastest_ms": min(self.seconds)}
        milliseconds = {name: _digits(1e3 * seconds) for name, seconds in names.items()}
        return {**milliseconds, "rounds": len(self.seconds), "calls_per_round": self.calls_per_round}


def ratios_to(baseline: str, timings: Mapping[str, Timing]) -> dict[str, float]:
    """How many times faster than `baseline` each contestant is."""
    return {name: timings[baseline].median / timing.median for name, timing in timings.items()}


def measure(
    entries: Mapping[str, Entry],
    pace: Pace,
    *,
    shown: Callable[[str, float], None] = lambda name, share: None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time warmed-up `entries` in alternation; `shown` hears who is next and which share of the contest is done."""
    names = list(entries)
    timings = {name: _untimed(entries[name], pace, clock) for name in names}
    begun, num_rounds = clock(), 0
    gc.collect()
    gc.disable()
    try:
        while num_rounds < pace.max_rounds and (num_rounds < pace.min_rounds or clock() - begun < pace.seconds):
            share = min(1.0, max(num_rounds / pace.max_rounds, (clock() - begun) / max(pace.seconds, 1e-9)))
            for name in _order(names, num_rounds):
                if len(timings[name].seconds) > num_rounds:
                    continue
                shown(name, share)
                sleep(pace.pause_seconds)
                timings[name].seconds.append(_settled(entries[name], timings[name], clock))
            num_rounds += 1
    finally:
        gc.enable()
    return timings


def warm_up(entry: Entry, calls: int = 2, clock: Callable[[], float] = time.perf_counter) -> tuple[Any, float]:
    """Call an entry until it is compiled and its memory known; what the last call returned, and its seconds."""
    result, seconds = None, 0.0
    for _ in range(calls):
        result = None
        entry.reset()
        begun = clock()
        result = entry.run()
        seconds = clock() - begun
        if seconds > _ONE_IS_ENOUGH:
            break
    return result, seconds


def grad_mode(backward: bool) -> Any:
    """A forward contest runs under no_grad, as scoring code does."""
    return torch.set_grad_enabled(backward)


def _order(names: list[str], number: int) -> list[str]:
    """Who runs after whom in a round."""
    first = number // 2 % len(names)
    turned = names[first:] + names[:first]
    return turned[::-1] if number % 2 else turned


def _untimed(entry: Entry, pace: Pace, clock: Callable[[], float]) -> Timing:
    seconds = _timed(entry, 1, clock)  # may still be a cold call
    if seconds < 10 * pace.stretch_seconds:
        seconds = min(seconds, _timed(entry, 1, clock))
    calls = _calls_of(pace, seconds)
    while calls > 1:  # a stretch sized by calls that were still cold is too short, and each stretch begins cold
        seconds = _timed(entry, calls, clock)
        wanted = _calls_of(pace, seconds)
        if wanted <= 1.1 * calls:
            break
        calls = wanted
    return Timing(calls, calls == 1 and seconds < _SETTLES_BELOW, [seconds] if seconds >= _COUNTS_FROM else [])


def _calls_of(pace: Pace, seconds: float) -> int:
    return max(1, math.ceil(pace.stretch_seconds / max(seconds, 1e-7)))


def _settled(entry: Entry, timing: Timing, clock: Callable[[], float]) -> float:
    if timing.settles:
        _timed(entry, 1, clock)
    return _timed(entry, timing.calls_per_round, clock)


def _timed(entry: Entry, calls: int, clock: Callable[[], float]) -> float:
    run, reset = entry.run, entry.reset
    reset()
    if calls == 1:
        begun = clock()
        result = run()
        seconds = clock() - begun
        del result
        reset()
        return seconds
    begun = clock()
    if reset is _nothing:
        for _ in range(calls):
            run()
    else:
        for _ in range(calls):
            run()
            reset()
    return (clock() - begun) / calls


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
