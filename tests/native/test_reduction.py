"""The sum over rows does not depend on the number of threads."""

from __future__ import annotations

import torch

import xent


def test_the_mean_of_many_rows_is_bitwise_the_same_for_any_number_of_threads() -> None:
    logits = torch.randn(300_001, 3, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (300_001,), generator=torch.Generator().manual_seed(1))
    losses, gradients = [], []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        leaf = logits.clone().requires_grad_()
        loss = xent.cross_entropy(leaf, target, label_smoothing=0.1)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(leaf.grad)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
    torch.testing.assert_close(losses[0].double(), xent.cross_entropy(logits.double(), target, label_smoothing=0.1))
