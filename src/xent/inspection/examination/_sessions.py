"""The doctors at work in this process, and how one event reaches them all."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
    if not _sessions or _here.depth or torch.compiler.is_compiling():
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


@contextmanager
def quiet() -> Iterator[None]:
    """For checks: no gradients, no user's modes, and what they call is not observed."""
    _here.depth += 1
    try:
        with torch.no_grad():
            if torch._C._len_torch_dispatch_stack() or torch._C._is_torch_function_mode_enabled():
                from torch.utils._python_dispatch import _disable_current_modes

                with torch._C.DisableTorchFunction(), _disable_current_modes():
                    yield
            else:
                yield
    finally:
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
