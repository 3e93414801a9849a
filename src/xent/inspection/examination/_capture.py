"""Torch's and xent's loss functions, observed while a doctor is at work and given back when the last one leaves.

Only functions are replaced that a program calls a few times a step. A wrapper gives what the function gives: the same
tensor, the same exception. It does nothing under `torch.compile` (which traces through to the original) and in forked
children.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xent.inspection.examination._arguments import bound
from xent.inspection.examination._call_site import user_frame
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._session import Session, is_sampled

_LOSSES = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
)
_lock = threading.RLock()
_sessions: tuple[Session, ...] = ()
_replaced: dict[int, tuple[Any, Any]] = {}  # id of what stood there → (it, its wrapper)


class _Depth(threading.local):
    depth = 0  # of observed calls in this thread: what they call in turn is theirs


_here = _Depth()


def begin(session: Session) -> None:
    """Let a session see every event from here on."""
    global _sessions
    with _lock:
        if not _sessions:
            _replace_all()
        _sessions = (*_sessions, session)


def end(session: Session) -> None:
    """The session sees no more; with the last one, everything is given back."""
    global _sessions
    with _lock:
        _sessions = tuple(each for each in _sessions if each is not session)
        if not _sessions:
            _give_back_all()


def _forget_sessions() -> None:
    global _sessions, _lock
    _lock = threading.RLock()
    _sessions = ()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)  # a DataLoader's workers have nothing to report


def _replace_all() -> None:
    import xent.functional

    for module, origin in ((F, "torch"), (xent.functional, "xent")):
        for name in _LOSSES:
            function = getattr(module, name, None)
            if function is not None and id(function) not in _replaced:
                _replaced[id(function)] = (function, _observed(name, origin, function))
    _exchange({key: new for key, (_, new) in _replaced.items()})


def _give_back_all() -> None:
    _exchange({id(new): old for old, new in _replaced.values()})
    _replaced.clear()


def _exchange(by_id: dict[int, Any]) -> None:
    """Put functions in each other's place in every module that holds one by name (`from … import cross_entropy`)."""
    for module in list(sys.modules.values()):
        try:
            names = vars(module)
        except TypeError:
            continue
        for name, value in list(names.items()):
            if id(value) in by_id and callable(value):
                names[name] = by_id[id(value)]


def _observed(name: str, origin: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))
    def observed(*args: Any, **kwargs: Any) -> Any:
        if not _sessions or torch.compiler.is_compiling() or _here.depth:
            return original(*args, **kwargs)
        _here.depth += 1
        try:
            output = original(*args, **kwargs)
        except Exception as error:
            _loss_called(name, origin, original, args, kwargs, None, error)
            raise
        else:
            _loss_called(name, origin, original, args, kwargs, output, None)
            return output
        finally:
            _here.depth -= 1

    observed.__script_if_tracing_wrapper = True  # type: ignore[attr-defined]  (torch.jit.script takes the original)
    observed.__original_fn = original  # type: ignore[attr-defined]
    return observed


def _loss_called(
    name: str, origin: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
    output: Any, error: BaseException | None,
) -> None:  # fmt: skip
    frame = user_frame(sys._getframe(1))
    graded = torch.is_grad_enabled()
    loss = output[0] if isinstance(output, tuple) else output
    with torch.no_grad():
        for session in _sessions:
            place = session.place(frame)
            arguments = bound(original, args, kwargs)
            session.loss_called(
                LossCall(
                    name=name, origin=origin, arguments=arguments, output=loss if isinstance(loss, Tensor) else None,
                    error=error, site=place.site, number=place.number, sampled=is_sampled(place.number),
                    grad_enabled=graded,
                )  # fmt: skip
            )
