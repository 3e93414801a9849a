"""Gradients that can't be differentiated: one rank does not know what another's depend on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from xent.errors import DistributedError

Backward = Callable[..., tuple[Tensor | None, ...]]


def first_order(backward: Backward) -> Backward:
    """A `backward` whose results raise where they are differentiated, rather than pass for constants."""

    @wraps(backward)
    def wrapped(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            made = backward(ctx, *gradients)
        if not torch.is_grad_enabled():
            return made
        return tuple(None if value is None else _Once.apply(value, torch.zeros(()).requires_grad_()) for value in made)

    return wrapped


class _Once(torch.autograd.Function):
    """A number as it is."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        return inputs[0].detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise DistributedError(
            "a second derivative of a loss over ranks",
            "it would need the states of the other ranks, whose gradients are theirs",
            "differentiate it once, or gather the logits and pass them to xent.cross_entropy",
        )
