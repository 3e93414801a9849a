"""The device of the Triton column: Triton's interpreter on the CPU, or a GPU where there is one (`pytest -m gpu`).

The shared tests make their tensors on the CPU. On a GPU the public functions are replaced by ones that move their
tensors there and their results back, which autograd follows.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor

import xent
from xent.backends.triton import programs
from xent.ops.choice import OPERATIONS

LAUNCHES = importlib.import_module("xent.backends.triton.launches")


ON_GPU = torch.cuda.is_available()
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu)] if ON_GPU else ["cpu"]


@pytest.fixture(autouse=True, params=DEVICES)
def device(request, monkeypatch) -> str:
    """Where the kernels run."""
    if ON_GPU:
        for name in (*OPERATIONS, "choices"):
            monkeypatch.setattr(xent, name, _moved(getattr(xent, name)))
    return request.param


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of two columns: rows of five classes are merged from three blocks."""
    launch = LAUNCHES.Launch(rows=2, columns=2, warps=1)
    monkeypatch.setattr(LAUNCHES, "heuristic", lambda question: launch)
    programs.forget()
    yield
    programs.forget()


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def on_gpu(*given: Any, **options: Any) -> Any:
        there = {name: _to("cuda", value) for name, value in options.items()}
        return _to("cpu", function(*(_to("cuda", value) for value in given), **there))

    return on_gpu


def _to(device: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        parts = [_to(device, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
