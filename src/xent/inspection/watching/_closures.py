"""Optimizers that are given a closure have their gradients only once it has run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Given = tuple[tuple[Any, ...], dict[str, Any]]  # args, with the optimizer first, and kwargs of a step


def after_closure(given: Given, then: Callable[[], None]) -> Given | None:
    """Call `then` when a step has its gradients: now; or, of a step with a closure, whenever that has run.

    What is returned takes the place of the step's arguments; None leaves them.
    """
    args, kwargs = given
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):
        then()
        return None

    def closure_first(*values: Any) -> Any:
        loss = closure(*values)
        then()
        return loss

    return (
        ((args[0], closure_first, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure_first})
    )
