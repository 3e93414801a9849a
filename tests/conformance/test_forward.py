"""Values, shapes and dtypes of every sample, and that no sample is written to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .error_budget import assert_within_budget
from .every import check_every
from .samples import Sample, database, samples_of
from .subjects import HALF, SUBJECTS

CASES = [
    pytest.param(name, dtype, id=f"{name}-{dtype}") for name, subject in SUBJECTS.items() for dtype in subject.dtypes
]
WARNINGS = (
    # torch's own, on both sides: the sample asks for a real dtype of a complex input
    "ignore:Casting complex values to real discards the imaginary part",
    "ignore:ComplexHalf support is experimental",
)
pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]
KEEP_TORCHS_DTYPE = ("log_softmax", "logsumexp")


@pytest.mark.parametrize("entry", [pytest.param(e, id="/".join(e)) for s in SUBJECTS.values() for e in s.entries])
def test_torch_lists_the_same_dtypes(entry):
    listed = next(subject.entries[entry] for subject in SUBJECTS.values() if entry in subject.entries)
    assert set(listed) == database()[entry].dtypes


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_forward(name, dtype, passed):
    passed(name, "forward", dtype, check_every(samples_of(name, dtype), _check_forward))


def _check_forward(sample: Sample) -> None:
    ours, theirs = sample.ours(), sample.theirs()
    assert ours.shape == theirs.shape
    assert_dtype(sample, ours, theirs)
    assert_within_budget(sample, ours, theirs)


def assert_dtype(sample: Sample, ours: Tensor, theirs: Tensor) -> None:
    """The documented difference: losses of half inputs are float32, where torch rounds them to half."""
    if sample.subject.name in KEEP_TORCHS_DTYPE or theirs.dtype not in HALF:
        assert ours.dtype == theirs.dtype
    else:
        assert ours.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_budget_refuses_a_wrong_digit(dtype):
    epsilon = torch.finfo(dtype).eps
    for sample in samples_of("cross_entropy", dtype):
        value = sample.theirs()
        with pytest.raises(AssertionError):
            assert_within_budget(sample, value + 1000 * epsilon * value.abs().clamp(min=1), value)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_inputs_unmodified(name, dtype, passed):
    passed(name, "unmodified", dtype, check_every(samples_of(name, dtype), _check_unmodified))


def _check_unmodified(sample: Sample) -> None:
    """Neither the forward nor the backward pass writes to a tensor of the call, bit for bit."""
    sample = sample.map(lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()))
    before = [(tensor.detach().clone(), tensor._version) for tensor in sample.tensors()]
    loss = sample.ours()
    if loss.requires_grad:
        loss.sum().backward()
    for tensor, (copy, version) in zip(sample.tensors(), before, strict=True):
        assert tensor._version == version
        assert bits(tensor) == bits(copy)


def bits(tensor: Tensor) -> bytes:
    """The tensor's memory."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
