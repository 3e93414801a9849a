"""xent.nn on every sample of torch's modules, with torch's state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from .error_budget import assert_within_budget
from .every import check_every
from .module_samples import MODULES, module_database, module_samples_of
from .samples import Sample
from .subjects import HALF

CASES = [pytest.param(name, dtype, id=f"{name}-{dtype}") for name, dtypes in MODULES.items() for dtype in dtypes]


@pytest.mark.parametrize("name", MODULES)
def test_torch_lists_the_same_dtypes(name):
    assert set(MODULES[name]) == set(module_database()[name].dtypes)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_forward(name, dtype, passed):
    passed(name, "forward", dtype, check_every(module_samples_of(name, dtype), _check_forward))


def _check_forward(sample: Sample) -> None:
    ours, theirs = sample.ours(), sample.theirs()
    assert ours.shape == theirs.shape
    assert ours.dtype == (torch.float32 if theirs.dtype in HALF else theirs.dtype)
    assert_within_budget(sample, ours, theirs)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_equal_torchs(name, passed):
    count = check_every(module_samples_of(name, torch.float64), _check_gradients)
    passed(name, "gradients", torch.float64, count)


def _check_gradients(sample: Sample) -> None:
    """In float64, of the input and of every parameter (torch's losses have none for their class weights)."""
    input, target = sample.args
    state = sample.kwargs["state"]
    leaves = {name: one.clone().requires_grad_() for name, one in state.items() if name.startswith("linear.")}
    wanted = [input.clone().requires_grad_(), *leaves.values()]
    call = replace(sample, args=(wanted[0], target), kwargs={"state": {**state, **leaves}})
    ours = torch.autograd.grad(call.ours().sum(), wanted)
    theirs = torch.autograd.grad(call.theirs().sum(), wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
