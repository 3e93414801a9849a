"""torch's samples of its loss modules as calls of two modules with one state."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import xent

from .samples import SEED, Sample, thaw_backend_flags
from .subjects import Subject

FULL = (torch.float32, torch.float64)
MODULES = {
    "CrossEntropyLoss": (torch.float16, *FULL),
    "LinearCrossEntropyLoss": (torch.float16, torch.bfloat16, *FULL),
    "NLLLoss": FULL,
    "BCELoss": FULL,
    "BCEWithLogitsLoss": FULL,
}


@cache
def module_database() -> dict[str, Any]:
    """torch's entries of the loss modules, by name."""
    from torch.testing._internal.common_modules import module_db

    thaw_backend_flags()
    return {name: next(entry for entry in module_db if entry.name == f"nn.{name}") for name in MODULES}


@cache
def module_samples_of(name: str, dtype: torch.dtype) -> tuple[Sample, ...]:
    """Every sample of the module: a call on (input, target, state=…) of both modules."""
    entry = module_database()[name]
    torch.manual_seed(SEED)
    random.seed(SEED)
    drawn = entry.module_inputs_func(entry, device="cpu", dtype=dtype, requires_grad=False, training=True)
    return tuple(_as_sample(name, number, one) for number, one in enumerate(drawn))


def _as_sample(name: str, number: int, drawn: Any) -> Sample:
    arguments, kwargs = drawn.constructor_input.args, own_options(drawn.constructor_input.kwargs)
    theirs = getattr(nn, name)(*arguments, **kwargs)
    ours = getattr(xent.nn, name)(*arguments, **kwargs)
    state = theirs.state_dict()
    ours.load_state_dict(state)  # strict: the same names and shapes
    subject = Subject(name, _call_of(ours), _call_of(theirs), {})
    constructor = ", ".join(f"{key}={value}" for key, value in kwargs.items() if not isinstance(value, Tensor))
    return Sample(subject, f"{name} #{number} ({constructor})", drawn.forward_input.args, {"state": dict(state)})


def own_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options without `options`, which says how torch chunks; in differences.py."""
    return {name: value for name, value in kwargs.items() if name != "options"}


def _call_of(module: nn.Module) -> Any:
    def call(input: Tensor, target: Tensor, *, state: dict[str, Tensor]) -> Tensor:
        return functional_call(module, state, (input, target))

    return call
