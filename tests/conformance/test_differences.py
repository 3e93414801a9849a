"""Every documented difference still is one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xent

from .differences import DIFFERENCES
from .samples import database, samples_of
from .subjects import HALF, SUBJECTS

LOGITS, TARGET = torch.zeros(2, 3), torch.tensor([0, 2])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", [name for name in SUBJECTS if name not in ("log_softmax", "logsumexp")])
def test_float32_losses(name, dtype):
    for sample in samples_of(name, dtype):
        assert (sample.ours().dtype, sample.theirs().dtype) == (torch.float32, dtype)


def test_options():
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=1)
    F.linear_cross_entropy(LOGITS, torch.zeros(4, 3), TARGET, options=options)
    with pytest.raises(TypeError, match="options"):
        xent.linear_cross_entropy(LOGITS, torch.zeros(4, 3), TARGET, options=options)


def test_weight_derivatives():
    weight = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        F.binary_cross_entropy(LOGITS, LOGITS, weight)
    with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
        F.nll_loss(LOGITS, TARGET, weight)
    for loss in (xent.binary_cross_entropy(LOGITS, LOGITS, weight), xent.nll_loss(LOGITS, TARGET, weight)):
        assert torch.autograd.grad(loss, weight)[0].shape == weight.shape


@pytest.mark.parametrize("variant", ["chunked", "chunked_none"])
def test_chunked_derivatives(variant):
    assert not database()["nn.functional.linear_cross_entropy", variant].supports_forward_ad


def test_no_counterpart():
    assert not hasattr(F, "token_logprobs")


def test_each_is_asserted():
    asserted = {name.removeprefix("test_").replace("_", " ") for name in globals() if name.startswith("test_")}
    assert set(DIFFERENCES) <= asserted
