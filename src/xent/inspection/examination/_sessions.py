"""The doctors at work in this process, and how one event reaches them all."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import ExitStack
from types import FrameType

import torch

from xent.inspection.examination._call_site import user_frame
from xent.inspection.examination._session import Session


class _Depth(threading.local):
    depth = 0  # of observed calls in this thread: what they call in turn is theirs


_here = _Depth()
lock = threading.RLock()
_sessions: tuple[Session, ...] = ()


def at_work() -> tuple[Session, ...]:
    """The sessions that see what happens here: none under torch.compile, nor inside what is observed already."""
    if torch.compiler.is_dynamo_compiling() or _here.depth:  # the first, so that dynamo guards on nothing of ours
        return ()
    return _sessions


def all_sessions() -> tuple[Session, ...]:
    """Every session, wherever it is asked."""
    return _sessions


def enter() -> None:
    """An observed function begins in this thread."""
    _here.depth += 1


def leave() -> None:
    """It ends."""
    _here.depth -= 1


class quiet:  # noqa: N801  (used as a function; a generator would cost three times as much, several times a step)
    """For checks: no gradients, no user's modes, and what they call is not observed."""

    __slots__ = ("_modes", "_were_graded")

    def __enter__(self) -> None:
        _here.depth += 1
        self._were_graded = torch.is_grad_enabled()
        self._modes: ExitStack | None = None
        if torch._C._len_torch_dispatch_stack() or torch._C._is_torch_function_mode_enabled():
            from torch.utils._python_dispatch import _disable_current_modes

            self._modes = ExitStack()
            self._modes.enter_context(torch._C.DisableTorchFunction())
            self._modes.enter_context(_disable_current_modes())
        torch._C._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch._C._set_grad_enabled(self._were_graded)
        if self._modes is not None:
            self._modes.close()
        _here.depth -= 1


class busy:  # noqa: N801  (as above)
    """For rules that only read numbers: what they call is not observed."""

    __slots__ = ()

    def __enter__(self) -> None:
        _here.depth += 1

    def __exit__(self, *error: object) -> None:
        _here.depth -= 1


def caller() -> FrameType | None:
    """The user's frame."""
    return user_frame(sys._getframe(1))


def add(session: Session) -> bool:
    """Let a session see what happens; whether it is the first."""
    global _sessions
    first = not _sessions
    _sessions = (*_sessions, session)
    return first


def remove(session: Session) -> bool:
    """Let it see no more; whether it was the last."""
    global _sessions
    before = len(_sessions)
    _sessions = tuple(each for each in _sessions if each is not session)
    return bool(before) and not _sessions


def _forget() -> None:
    global _sessions, lock, _here
    _sessions, lock, _here = (), threading.RLock(), _Depth()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a DataLoader's workers have nothing to report
