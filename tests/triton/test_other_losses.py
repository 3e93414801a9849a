"""log_softmax, logsumexp and binary_cross_entropy_with_logits on the Triton column, on the shared tables."""

from __future__ import annotations

import pytest
import torch

import xent
from tests.edge_cases import CASES, DTYPES
from tests.functional import test_binary_cross_entropy as binary
from tests.functional import test_edge_cases as table
from tests.triton.conftest import ON_GPU
from tests.triton.test_cross_entropy import name_of, sampled

FOLDED = [case for case in CASES if 0 < case.logits(torch.float64).numel() < 200]
GRID = [(function, case, dtype) for case in FOLDED for function in ("log_softmax", "logsumexp") for dtype in DTYPES]


@pytest.mark.parametrize("row", sampled(GRID, 29), ids=name_of)
def test_log_softmax_and_logsumexp(row):
    function, case, dtype = row
    table.test_log_softmax_and_logsumexp("triton", dtype, case, function)


@pytest.mark.parametrize("row", sampled(GRID, 29)[3:], ids=name_of)
def test_log_softmax_and_logsumexp_in_several_blocks(row, small_tiles):
    function, case, dtype = row
    table.test_log_softmax_and_logsumexp("triton", dtype, case, function)


BINARY = [
    (values, target, weighted, dtype, options)
    for values in binary.LOGITS
    for target in binary.TARGETS
    for weighted in (False, True)
    for dtype, options in binary.DTYPES_AND_OPTIONS
]


@pytest.mark.parametrize("row", sampled(BINARY, 9), ids=name_of)
def test_binary_cross_entropy_with_logits(row):
    values, target, weighted, dtype, options = row
    binary.test_with_logits(values, "triton", dtype, target, weighted, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_binary_loss_keeps_its_digits_where_it_is_tiny(dtype):
    """As tests/functional asks of the reference: loss and gradient of a right answer are e^−|x| but for a factor.

    In float32 a GPU raises 2 to x · log₂e, which is rounded: |x| / 2 roundings more.
    """
    far = torch.tensor([5.0, 16.0, 30.0, 80.0], dtype=torch.float64)
    input = far.to(dtype).requires_grad_()
    with xent.backend("triton"):
        loss = xent.binary_cross_entropy_with_logits(input, torch.ones(4, dtype=dtype), reduction="none")
    loss.sum().backward()
    roundings = 8 + 80 / 2 if ON_GPU and dtype == torch.float32 else 8
    small, truth = far.neg().exp(), {"rtol": roundings * torch.finfo(dtype).eps, "atol": 0.0, "check_dtype": False}
    torch.testing.assert_close(loss.detach(), small.log1p(), **truth)
    torch.testing.assert_close(input.grad, -small / (1 + small), **truth)
