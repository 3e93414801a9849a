"""Hooks on a user's modules and optimizers that none of their copies, files, graphs and failures gets to feel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, wraps
from types import CodeType
from typing import Any

import torch
from torch.optim import Optimizer

Function = Callable[..., Any]


class ForwardHook:
    """A hook of one module.

    `copy.deepcopy(model)` and `torch.save(model, …)` take a module's hooks along, and with them all that they lead to,
    open files included. Of this one a copy gets a method of the standard library that does nothing.
    """

    def __init__(self, call: Function) -> None:
        self._call = call

    def __call__(self, *given: Any) -> Any:
        """As torch calls hooks."""
        return self._call(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def eager(hook: Function) -> Function:
    """The hook, but never part of a graph: a compiled `optimizer.step()` would trace what it does, for minutes."""
    untraced = torch.compiler.disable(hook)  # 1 µs a call, so only where it is needed

    @wraps(hook)
    def either(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return untraced(*args, **kwargs)
        return hook(*args, **kwargs)

    return either


def is_within_step(is_ours: Callable[[Any], bool]) -> bool:
    """Whether a step of some of our optimizers is running. torch calls no hook after one that failed."""
    return _running_steps(is_ours) > 0


def is_nested_step(is_ours: Callable[[Any], bool]) -> bool:
    """Whether the step whose hook asks runs within another one: a `step` that calls its `super().step()`."""
    return _running_steps(is_ours) > 1


def _running_steps(is_ours: Callable[[Any], bool]) -> int:
    frame, found, code = sys._getframe(2), 0, _code_around_steps()
    while frame is not None:
        if frame.f_code is code:
            args = frame.f_locals.get("args") or (None,)
            found += bool(is_ours(args[0]))
        frame = frame.f_back
    return found


@cache
def _code_around_steps() -> CodeType:
    """What torch puts around every `step`, to call the hooks."""
    return Optimizer.profile_hook_step(lambda self: None).__code__
