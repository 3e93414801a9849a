"""Ctrl-C, at a moment that suits."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
    pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
