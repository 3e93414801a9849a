"""What a program is listened to for: losses, backward passes, cleared gradients, steps that a GradScaler leaves out.

A wrapper asks one question, whether a recording listens now, and calls the original. It gives what the original gives:
the same tensor, the same exception. Under `torch.compile` it is not there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from xent.inspection.examination._arguments import bound
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._patches import as_original
from xent.inspection.watching._loss_numbers import OF_SHARED_ROWS

if TYPE_CHECKING:
    from xent.inspection.watching._recording import Recording

Function = Callable[..., Any]
LOSSES = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)


class _Depth(threading.local):
    depth = 0  # of heard losses in this thread: what they call in turn is theirs


_here = _Depth()
_lock = threading.RLock()
_listeners: tuple[Recording, ...] = ()  # those that record the step that is going on
_recordings: tuple[Recording, ...] = ()
_replaced: list[tuple[Any, Any]] = []  # (original, wrapper) of functions that modules hold by name
_methods: list[tuple[type, str, Any, Any]] = []


def begin(recording: Recording) -> None:
    """Let a recording listen when it wants to."""
    global _recordings
    with _lock:
        _recordings = (*_recordings, recording)
        if len(_recordings) == 1:
            _replace()


def end(recording: Recording) -> None:
    """The recording hears no more; with the last one everything is given back."""
    global _recordings
    with _lock:
        sleep(recording)
        _recordings = tuple(each for each in _recordings if each is not recording)
        if not _recordings:
            _give_back()


def wake(recording: Recording) -> None:
    """The recording listens to what follows."""
    global _listeners
    with _lock:
        if all(each is not recording for each in _listeners):
            _listeners = (*_listeners, recording)


def sleep(recording: Recording) -> None:
    """It does not, for now."""
    global _listeners
    with _lock:
        _listeners = tuple(each for each in _listeners if each is not recording)


def _listening() -> list[Recording]:
    """Those that listen to this thread."""
    if _here.depth:
        return []
    thread = threading.get_ident()
    return [each for each in _listeners if each.thread in (None, thread)]


def heard_loss(original: Function, name: str, origin: Any) -> Function:
    """Wrap a loss function."""

    @as_original(original)
    def loss_function(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not _listeners or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        recordings = _listening()
        if not recordings:
            return original(*args, **kwargs)
        began = time.perf_counter()
        _here.depth += 1
        try:
            output = original(*args, **kwargs)
        finally:
            _here.depth -= 1
        ended = time.perf_counter()
        loss = output[0] if isinstance(output, tuple) else output
        if isinstance(loss, Tensor) and loss.requires_grad:
            call = LossCall(name=name, origin=origin, arguments=bound(original, args, kwargs), output=loss)
            for each in recordings:
                each.loss_called(call, began, ended)
        return output

    return loss_function


def heard_backward(original: Function) -> Function:
    """Wrap `torch.autograd.backward`, which `Tensor.backward` calls."""

    @as_original(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not _listeners:
            return original(tensors, *args, **kwargs)
        recordings = _listening()
        began = time.perf_counter()
        for each in recordings:
            each.backward_begins(tensors, began)
        began = time.perf_counter()
        result = original(tensors, *args, **kwargs)
        ended = time.perf_counter()
        for each in recordings:
            each.backward_ended(began, ended)
        return result

    return backward


def heard_zero_grad(original: Function) -> Function:
    """Wrap `Optimizer.zero_grad`."""

    @as_original(original)
    def zero_grad(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not _listeners:
            return original(self, *args, **kwargs)
        began = time.perf_counter()
        result = original(self, *args, **kwargs)
        ended = time.perf_counter()
        for each in _listening():
            each.was_elsewhere(began, ended)
        return result

    return zero_grad


def heard_scaler_step(original: Function) -> Function:
    """Wrap `GradScaler.step`, which may leave the optimizer's step out."""

    @as_original(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        recordings = _listening() if _listeners else []
        before = [each.step for each in recordings]
        result = original(self, optimizer, *args, **kwargs)
        for each, step in zip(recordings, before, strict=True):
            if each.step == step and each.has(optimizer):
                each.step_skipped()
        return result

    return step


def _replace() -> None:
    import xent.distributed
    import xent.functional

    heard = [(name, module) for name in LOSSES for module in (F, xent.functional)]
    for name, module in (*heard, *((name, xent.distributed) for name in OF_SHARED_ROWS)):
        origin, original = "torch" if module is F else "xent", getattr(module, name, None)
        if original is not None:
            _replaced.append((original, heard_loss(original, name, origin)))
    _replaced.append((torch.autograd.backward, heard_backward(torch.autograd.backward)))
    _exchange({id(old): new for old, new in _replaced})
    scaler: Any = torch.amp.GradScaler  # pyright: ignore[reportPrivateImportUsage]
    for kind, name, wrapping in ((Optimizer, "zero_grad", heard_zero_grad), (scaler, "step", heard_scaler_step)):
        original = vars(kind)[name]
        _methods.append((kind, name, original, wrapping(original)))
        setattr(kind, name, _methods[-1][3])


def _give_back() -> None:
    _exchange({id(new): old for old, new in _replaced})
    for kind, name, old, new in _methods:
        if vars(kind).get(name) is new:  # somebody who replaced it meanwhile keeps their own
            setattr(kind, name, old)
    _replaced.clear()
    _methods.clear()


def _exchange(by_id: dict[int, Any]) -> None:
    """In every loaded module that holds one of the functions by name."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is dict:
            for name in [name for name, value in names.items() if id(value) in by_id]:
                names[name] = by_id[id(names[name])]


def _forget() -> None:
    global _recordings, _listeners, _lock, _here
    _recordings, _listeners, _lock, _here = (), (), threading.RLock(), _Depth()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a DataLoader's workers have nothing to record
