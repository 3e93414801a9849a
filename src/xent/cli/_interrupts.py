"""Ctrl-C, at a moment that suits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


class Stopped(Exception):  # noqa: N818  (no error; and no KeyboardInterrupt, which Typer makes a bare 130)
    """Ctrl-C ended a command that had begun; the message says where its work is."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is left; a second one is not held.

    A KeyboardInterrupt inside an import surfaces as whatever the module that was being loaded makes of it.

    Raises:
        KeyboardInterrupt: on leaving, if Ctrl-C was pressed inside.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as under nohup, or somebody else's
        yield
        return
    held = _Held(before)
    signal.signal(signal.SIGINT, held)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held.pressed:
        raise KeyboardInterrupt


@contextmanager
def interrupts_let_through() -> Iterator[None]:
    """Inside `interrupts_held`: let a Ctrl-C through at once, for work that is long and leaves nothing behind.

    Raises:
        KeyboardInterrupt: as it comes.
    """
    held = signal.getsignal(signal.SIGINT)
    if not isinstance(held, _Held):
        yield  # nothing is held, or a Ctrl-C was pressed, and the next one is let through anyway
        return
    signal.signal(signal.SIGINT, held.before)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, held)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what the error came of: a class that is being made makes it a RuntimeError (Python 3.11)."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__
    return False


class _Held:
    """A handler that remembers the first Ctrl-C; the second one has its usual effect."""

    def __init__(self, before: Any) -> None:
        self.before, self.pressed = before, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self.before)
