"""What the ranks of a training tell each other of their end, so that one message says why.

All of it lies in the store of their launcher, which outlives a rank under torchrun. A rank that fails says so there
before its connections close; the others, whose next collective then fails, see that it is said and end in silence. A
rank that is killed says nothing: it is known by its pulse, which each rank leaves in the store twice a second.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch.distributed as dist

from xent.errors import RunError, XentError

_PULSE = 0.5  # seconds
_LOOKS = 10  # pulses that a rank is watched for before it is called gone
_SAID, _ENDED = "xent/said", "xent/ended"
_LATE, _LOST = "late", "lost"  # what a rank met: nobody came in time, or the others went
_TOGETHER = 2.0  # seconds: the first rank whose patience ends closes the connections of those that wait with it


class Terminated(BaseException):
    """SIGTERM, which torchrun sends to the ranks that are left."""


class LateError(RuntimeError):
    """A rank that did not come, or another that has said why it ends."""


class Endings:
    """The ends of the ranks, as this rank sees them."""

    def __init__(self, store: Any, rank: int, size: int, patience: int) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self._store, self._over = store, threading.Event()
        self._beat(0)
        self.meet("start")
        threading.Thread(target=self._live, daemon=True).start()

    def stop(self) -> None:
        """No more pulses."""
        self._over.set()

    def meet(self, place: str) -> None:
        """Wait for the others at a place, as long as all that are missing live.

        Raises:
            LateError: one did not come and has had no pulse for as long as the patience is, or one has ended.
        """
        self._store.set(f"xent/met/{place}/{self.rank}", "")
        missing, seen = set(range(self.size)), dict[int, tuple[bytes, float]]()
        while missing := {rank for rank in missing if not self._store.check([f"xent/met/{place}/{rank}"])}:
            now = time.monotonic()
            for rank, pulse in self._pulses(missing).items():
                if rank not in seen or seen[rank][0] != pulse:
                    seen[rank] = pulse, now
            lost = [rank for rank in missing if now - seen[rank][1] > self.patience]
            if lost or self.is_said():
                raise LateError(f"{lost} did not come to {place!r}")
            time.sleep(_PULSE / 5)

    def claim(self) -> bool:
        """Whether this rank is the one that says why."""
        try:
            return self._store.compare_set(_SAID, "", str(self.rank)).decode() == str(self.rank)
        except RuntimeError:  # the store is gone, and nobody else can be asked
            return True

    def is_said(self) -> bool:
        """Whether a rank has said why."""
        return self._store.check([_SAID])

    def lost(self, error: BaseException) -> tuple[list[int], bool]:
        """The ranks for whose sake the others end, without a pulse or late, and whether they are late.

        None if it is said, or can't be known.

        Args:
            error: what this rank met.
        """
        now, late = time.time(), is_late(error)
        self._end_as(_LATE if late else _LOST, now)
        others = [rank for rank in range(self.size) if rank != self.rank]
        before, found = self._pulses(others), others
        for look in range(_LOOKS):
            time.sleep(_PULSE)
            if self.is_said():
                return [], late
            met = {rank: self._met(rank) for rank in others}
            if not late and any(what == _LATE and abs(when - now) < _TOGETHER for what, when in met.values()):
                late = True  # this rank waited too
                self._end_as(_LATE, now)
            if late:  # a rank that was slow, and came now, met that the others had gone
                found = [rank for rank in others if met[rank][0] != _LATE]
            else:
                pulses = self._pulses(others)
                found = [rank for rank in others if pulses[rank] == before[rank] and not met[rank][0]]
            if look >= 3 and len(found) <= 1:
                break
        return found, late

    def _end_as(self, what: str, when: float) -> None:
        self._store.set(f"{_ENDED}/{self.rank}", f"{what} {when}")

    def _met(self, rank: int) -> tuple[str, float]:
        """What it met, "" if nothing yet, and when (in seconds of the clocks, which agree well enough)."""
        name = f"{_ENDED}/{rank}"
        if not self._store.check([name]):
            return "", 0.0
        what, when = self._store.get(name).decode().split()
        return what, float(when)

    def _pulses(self, ranks: Any) -> dict[int, bytes]:
        names = {rank: f"xent/pulse/{rank}" for rank in ranks}
        return {rank: self._store.get(name) if self._store.check([name]) else b"" for rank, name in names.items()}

    def _beat(self, count: int) -> None:
        self._store.set(f"xent/pulse/{self.rank}", str(count))

    def _live(self) -> None:
        count = 0
        while not self._over.wait(_PULSE):
            count += 1
            try:
                self._beat(count)
            except RuntimeError:  # the launcher is gone, and this process soon
                return


@contextmanager
def terminations_raised() -> Iterator[None]:
    """Inside, a first SIGTERM is raised as `Terminated`, so that a rank can look who is lost.

    Raises:
        Terminated: SIGTERM.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends SIGKILL to who takes too long
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending, and has one thing to say
        raise
    signal.signal(signal.SIGTERM, before)


def is_of_another(error: BaseException | None) -> bool:
    """Whether an error says no more than that other ranks are gone or late."""
    while error is not None:
        if isinstance(error, (Terminated, LateError, dist.DistNetworkError, dist.DistStoreError)):
            return True
        if isinstance(error, RuntimeError) and "gloo" in str(error):
            return True
        error = error.__cause__
    return False


def is_late(error: BaseException | None) -> bool:
    """Whether ranks did not come in time."""
    while error is not None:
        if isinstance(error, LateError) or "timed out" in str(error).lower():
            return True
        error = error.__cause__
    return False


def last_word(endings: Endings, error: BaseException, where: str, go_on: str) -> BaseException:
    """What this rank ends with: its error, an error that names the ranks that are lost, or SystemExit in silence.

    Args:
        endings: those of the ranks.
        error: what it met.
        where: how far the training is, in words.
        go_on: what to do next.
    """
    if not is_of_another(error):
        says = endings.claim()
        return _own(endings.rank, error) if says or not isinstance(error, XentError) else SystemExit(1)
    try:
        lost, late = endings.lost(error)
    except RuntimeError:  # the store is gone, with the process that held it
        lost, late = [], False
    if not endings.claim():
        return SystemExit(1)
    if lost:
        return _words(endings, lost, late, where, go_on)
    return _words_of_nobody(endings, error, where, go_on)


def _own(rank: int, error: BaseException) -> BaseException:
    if rank == 0 or not isinstance(error, XentError) or error.got.startswith("rank "):
        return error
    return type(error)(f"rank {rank}: {error.got}", error.need, error.do)


def _words(endings: Endings, lost: list[int], late: bool, where: str, go_on: str) -> RunError:
    ranks = f"rank{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
    if late:
        return RunError(
            f"{ranks} of {endings.size} did not answer for {endings.patience} s, {where}",
            "every rank must come to every step within --patience seconds",
            f"look at that process and its machine, then {go_on}",
        )
    return RunError(
        f"{ranks} of {endings.size} ended without a word, {where}: killed (for memory?), or its machine is lost",
        "all ranks must live until the training is over",
        go_on,
    )


def _words_of_nobody(endings: Endings, error: BaseException, where: str, go_on: str) -> RunError:
    if isinstance(error, Terminated):
        return RunError(f"rank {endings.rank} was told to end (SIGTERM), {where}", "nothing else is wrong", go_on)
    return RunError(
        f"rank {endings.rank} of {endings.size} lost the others, {where} ({_first_line(error)})",
        "all ranks must live until the training is over",
        f"read what another rank or its launcher printed, then {go_on}",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
