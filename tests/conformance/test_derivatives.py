"""Derivatives of every float64 sample by finite differences, with respect to every floating point tensor of the call.

That is more than torch asks of itself: class weights and `pos_weight` too, and second derivatives and forward mode of
the chunked samples of `linear_cross_entropy`, where torch has none.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from .every import check_every
from .samples import Sample, samples_of
from .subjects import SUBJECTS

DOUBLE = [(name, dtype) for name, subject in SUBJECTS.items() for dtype in subject.dtypes if dtype == torch.float64]
DOUBLE.append(("logsumexp", torch.complex128))
CASES = [pytest.param(name, dtype, id=f"{name}-{dtype}") for name, dtype in DOUBLE]
FAST = (
    "linear_cross_entropy",
    "token_logprobs",
)  # hundreds of samples: a random projection of the Jacobian instead of each entry
CHECKS = {
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
    "forward AD": partial(gradcheck, check_forward_ad=True, check_backward_ad=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_derivatives(name, dtype, check, passed):
    torch.manual_seed(0)  # gradgradcheck draws its grad_outputs

    def holds(sample: Sample) -> None:
        function, floats = sample.of_floats()
        assert CHECKS[check](function, tuple(floats), fast_mode=name in FAST)

    passed(name, check, dtype, check_every(samples_of(name, dtype), holds))
