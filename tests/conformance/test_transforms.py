"""Samples under torch.func.vmap and torch.compile(fullgraph=True)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .every import check_every
from .samples import Sample, differentiable, samples_of
from .subjects import SUBJECTS

NAMES = list(SUBJECTS)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("name", NAMES)
def test_vmap(name, passed):
    passed(name, "vmap", torch.float64, check_every(samples_of(name, torch.float64), _check_vmap))


def _check_vmap(sample: Sample) -> None:
    """Over all tensors stacked in front, and over the input alone stacked behind, vmap equals a loop."""
    tensors = sample.tensors()
    calls = [tensors, [half(tensor) for tensor in tensors]]
    _assert_vmap_equals_loop(sample, calls, in_dims=[0] * len(tensors))
    calls[1] = [calls[1][0], *tensors[1:]]
    _assert_vmap_equals_loop(sample, calls, in_dims=[-1] + [None] * (len(tensors) - 1))


def _assert_vmap_equals_loop(sample: Sample, calls: list[list[Tensor]], in_dims: list[int | None]) -> None:
    stacked = [
        one if dim is None else torch.stack((one, other), dim) for one, other, dim in zip(*calls, in_dims, strict=True)
    ]
    batched = torch.func.vmap(lambda *tensors: sample.with_tensors(tensors).ours(), tuple(in_dims))(*stacked)
    looped = torch.stack([sample.with_tensors(tensors).ours() for tensors in calls])
    torch.testing.assert_close(batched, looped, equal_nan=True, **CLOSE)


def half(tensor: Tensor) -> Tensor:
    """Another valid tensor for the same place: probabilities stay in [0, 1], indices keep their value."""
    return tensor.detach() * 0.5 if differentiable(tensor) else tensor


def distinct(name: str) -> list[Sample]:
    """One float32 sample for each set of options, kind of target, and 0, 1, 2 or more dimensions of each tensor."""

    def rank(tensor: Tensor) -> str:
        return f"{tensor.dtype} {min(tensor.ndim, 3)}"

    def graph(sample: Sample) -> str:
        return sample.signature(rank).replace(", reduction='mean'", "")  # the default

    return list({graph(sample): sample for sample in samples_of(name, torch.float32)}.values())


def richest(name: str) -> list[Sample]:
    """The sample with the most options for each kind of target: for the compiler that takes seconds."""
    by_options = sorted(distinct(name), key=lambda sample: len(sample.kwargs))
    return list({str(getattr(sample.args[-1], "dtype", None)): sample for sample in by_options}.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compile_aot_eager(name, passed):
    count = check_every(distinct(name), lambda sample: _check_compiled(sample, "aot_eager"))
    passed(name, "compile (aot_eager)", torch.float32, count)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_compile_inductor(name, passed):
    count = check_every(richest(name), lambda sample: _check_compiled(sample, "inductor"))
    passed(name, "compile (inductor)", torch.float32, count)


def _check_compiled(sample: Sample, backend: str) -> None:
    """One graph; the value and the gradients of the eager call."""
    torch.compiler.reset()
    function, floats = sample.of_floats()
    compiled = torch.compile(function, fullgraph=True, dynamic=False, backend=backend)
    eager, traced = function(*floats), compiled(*floats)
    torch.testing.assert_close(traced, eager)
    grads = torch.autograd.grad(eager.sum(), floats), torch.autograd.grad(traced.sum(), floats)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
