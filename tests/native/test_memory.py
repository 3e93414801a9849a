"""Tensors whose memory no kernel can read: an automatic choice leaves them to the reference, gradients are copied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import xent
from xent.errors import BackendError

CLASSES = 1200  # more logits in all than go to torch's own kernel


def misaligned(x: Tensor) -> Tensor:
    """The same numbers, one byte beside a multiple of the element size."""
    memory = bytearray(x.numel() * x.itemsize + 1)
    made = torch.frombuffer(memory, dtype=x.dtype, offset=1, count=x.numel()).view(x.shape)
    assert made.data_ptr() % x.itemsize == 1
    return made.copy_(x)


def crossed(x: Tensor) -> Tensor:
    """The same numbers in eight dimensions of which no two continue each other."""
    made = x.permute(6, 5, 4, 3, 2, 1, 0, 7).contiguous().permute(6, 5, 4, 3, 2, 1, 0, 7)
    assert made.ndim == 8
    return made


X, Y = torch.randn(2, 2, 2, 2, 2, 2, 4, CLASSES), torch.randint(0, CLASSES, (2, 2, 2, 2, 2, 2, 4))
Losses = Callable[[Tensor], Tensor]
LOSSES: dict[str, Losses] = {
    "cross_entropy": lambda x: xent.cross_entropy(x, Y, dim=-1),
    "cross_entropy_rows": lambda x: xent.cross_entropy(x, Y, dim=-1, reduction="none"),
    "nll_loss": lambda x: xent.nll_loss(x, Y, dim=-1, reduction="none"),
    "log_softmax": lambda x: xent.log_softmax(x, -1),
    "logsumexp": lambda x: xent.logsumexp(x, -1),
    "binary_cross_entropy_with_logits": lambda x: xent.binary_cross_entropy_with_logits(
        x, torch.ones_like(x), reduction="none"
    ),
}


def with_gradient(loss: Losses, x: Tensor, upstream: Callable[[Tensor], Tensor] = lambda g: g) -> list[Tensor]:
    leaf = x.detach().requires_grad_()
    value = loss(leaf)
    g = torch.linspace(0.5, 1.5, value.numel()).view(value.shape)
    return [value.detach(), torch.autograd.grad(value, leaf, upstream(g) if value.ndim else g.view(()))[0]]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("place", [misaligned, crossed])
def test_logits_that_no_kernel_can_read(name: str, place: Callable[[Tensor], Tensor]) -> None:
    loss = LOSSES[name]
    with xent.backend("reference"):
        wanted = with_gradient(loss, X)
    for got, want in zip(with_gradient(loss, place(X)), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # the same formula in another order of memory
    reason = "no multiple of its element size" if place is misaligned else "walk 7 dimensions, and one tensor has 8"
    with xent.backend("native"), pytest.raises(BackendError, match=reason):
        loss(place(X))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "place", [misaligned, lambda g: crossed(g) if g.ndim == 8 else g[..., None].expand(*g.shape, 2)[..., 0]]
)
def test_gradients_from_outside_that_no_kernel_can_read(name: str, place: Callable[[Tensor], Tensor]) -> None:
    with xent.backend("native"):
        plain, elsewhere = with_gradient(LOSSES[name], X), with_gradient(LOSSES[name], X, place)
    assert all(torch.equal(a, b) for a, b in zip(plain, elsewhere, strict=True))


def test_targets_and_weights_that_no_kernel_can_read() -> None:
    x, y, weight = X.view(-1, CLASSES), Y.view(-1), torch.rand(CLASSES)
    want = xent.cross_entropy(x, y, weight)
    for got in (xent.cross_entropy(x, misaligned(y), weight), xent.cross_entropy(x, y, misaligned(weight))):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_contiguous_logits_of_many_dimensions_run_on_the_kernels() -> None:
    assert xent.choices(X, Y, dim=-1).chosen == "native"
    assert xent.choices(X.movedim(-1, 1), Y).chosen == "reference"
