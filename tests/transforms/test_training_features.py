"""What training loops wrap around a loss: autocast, checkpointing, inputs that must stay as they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import xent

TARGET = torch.tensor([0, 3, -100, 2])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_gives_a_float32_loss_and_gradients_in_the_parameters_dtype(half: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 8), torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", half):
        loss = xent.linear_cross_entropy(hidden, weight, TARGET)
        same = xent.cross_entropy(F.linear(hidden, weight), TARGET)
    assert loss.dtype == same.dtype == torch.float32
    torch.testing.assert_close(loss, same, rtol=0, atol=0)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradient(reentrant: bool) -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    (plain,) = torch.autograd.grad(xent.cross_entropy(logits, TARGET, z_loss=0.1), logits)
    loss = checkpoint(lambda x: xent.cross_entropy(x, TARGET, z_loss=0.1), logits, use_reentrant=reentrant)
    loss.backward()
    torch.testing.assert_close(logits.grad, plain, rtol=0, atol=0)


def test_inputs_are_never_modified() -> None:
    torch.manual_seed(0)
    logits, weight, row_weight = torch.randn(4, 5, requires_grad=True), torch.rand(5), torch.rand(4)
    target = TARGET.clone()
    tensors = (logits, target, weight, row_weight)
    before = [(tensor.detach().clone(), tensor._version) for tensor in tensors]
    xent.cross_entropy(
        logits, target, weight, row_weight=row_weight, label_smoothing=0.1, softcap=2.0, z_loss=0.1, logit_scale=2.0
    ).backward()
    for tensor, (value, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


def test_the_global_random_state_is_untouched() -> None:
    state = torch.get_rng_state()
    xent.cross_entropy(torch.ones(4, 5), TARGET)
    assert torch.equal(torch.get_rng_state(), state)


def test_logits_are_viewed_not_copied() -> None:
    """A (N, C, T) problem and a transposed one reach the backend as views of the caller's memory."""
    from xent.problem import rows_of
    from xent.terms import LossTerms

    logits = torch.randn(2, 3, 7)
    for tensor, dim in ((logits, 1), (logits.transpose(1, 2), -1), (logits, -1)):
        target = torch.zeros(tensor.movedim(dim, -1).shape[:-1], dtype=torch.long)
        rows = rows_of(tensor, target, LossTerms(), dim, shift=1)
        assert rows.logits.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr()
