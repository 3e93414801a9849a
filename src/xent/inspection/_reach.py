"""Which parameters a loss depends on: the leaves behind its graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def leaves_behind(loss: Tensor) -> Iterator[Tensor]:
    """Every tensor that `backward()` would give a gradient, once."""
    if loss.grad_fn is None:
        if loss.requires_grad:
            yield loss
        return
    seen: set[Any] = {loss.grad_fn}
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
