"""Functions of torch that are listened to while a step is watched, and given back afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any

import torch

from xent.inspection._hooks import eager


def listened(stack: ExitStack, owner: Any, name: str, before: Callable[..., Any], after: Callable[..., Any]) -> None:
    """Call `before` with the arguments of every call of owner.name and `after` with what it gave and the arguments."""
    original = getattr(owner, name)
    before, after = eager(before), eager(after)

    @wraps(original)
    def heard(*args: Any, **kwargs: Any) -> Any:
        kept = before(*args, **kwargs)
        result = original(*args, **kwargs)
        after(kept, *args, **kwargs)
        return result

    setattr(owner, name, heard)
    stack.callback(_give_back, owner, name, original, heard)


def _give_back(owner: Any, name: str, original: Any, heard: Any) -> None:
    if getattr(owner, name) is heard:  # somebody who replaced it inside the block keeps their own
        setattr(owner, name, original)


class RandomState:
    """torch's random state, of the CPU and of the accelerators in use."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def put_back(self) -> None:
        """Draw from here on what would have been drawn from there on."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
