"""nll_loss, log_softmax, logsumexp, binary cross-entropy: parity with the reference formula in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import xent

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Beside the plain formula's own error: some roundings of the sums, and one of a half result.
SLACK = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def value_and_gradient(loss: Callable[[Tensor], Tensor], x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    with xent.backend(name):
        value = loss(leaf)
        ramp = torch.linspace(-1, 1.5, value.numel()).view_as(value).to(value.dtype)
        return value.detach(), torch.autograd.grad(value, leaf, ramp)[0]


def check(loss: Callable[[Tensor], Tensor], x: Tensor) -> None:
    value, gradient = value_and_gradient(loss, x, "native")
    plain, plain_gradient = value_and_gradient(loss, x, "reference")
    truth, true_gradient = value_and_gradient(loss, x.double(), "reference")
    for got, own, want in ((value, plain, truth), (gradient, plain_gradient, true_gradient)):
        budget = error(own, want) + SLACK[x.dtype] * max(float(want.abs().max()), 1e-3)
        assert error(got, want) <= budget


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(5,), (1, 1), (7, 33), (40, 5000), (3, 19, 40)])
@pytest.mark.parametrize("dim", [0, -1, 1])
def test_log_softmax_and_logsumexp(isa: str, dtype: torch.dtype, shape: tuple[int, ...], dim: int) -> None:
    if dim >= len(shape):
        pytest.skip("one dimension")
    x = (3 * torch.randn(shape)).to(dtype)
    check(lambda t: xent.log_softmax(t, dim), x)
    check(lambda t: xent.logsumexp(t, dim), x)
    check(lambda t: xent.logsumexp(t, dim, keepdim=True), x.t() if x.ndim == 2 else x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nll_loss(isa: str, dtype: torch.dtype) -> None:
    target = torch.tensor([0, 4, -100, 2])
    for x in (torch.randn(4, 5), torch.randn(5, 4).t()):
        log_p = x.log_softmax(1).to(dtype)
        check(lambda t: xent.nll_loss(t, target, torch.arange(1.0, 6.0), reduction="none"), log_p)
        check(lambda t: xent.nll_loss(t, target), log_p)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (9001,), (300, 1), (7, 33), (2, 3, 5)])
def test_binary_cross_entropy_with_logits(isa: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, t = (4 * torch.randn(shape)).to(dtype), torch.rand(shape)
    weight, positive = torch.rand(shape) + 0.5, torch.rand(shape[-1:]) + 0.5
    loss = xent.binary_cross_entropy_with_logits
    check(lambda z: loss(z, t.to(z.dtype), reduction="none"), x)
    check(lambda z: loss(z, t.to(z.dtype), weight, reduction="none", pos_weight=positive), x)
    if x.ndim == 2:
        check(lambda z: loss(z.t(), t.t().to(z.dtype), reduction="none"), x)


def test_binary_cross_entropy_far_from_zero(isa: str) -> None:
    x = torch.tensor([-1e4, -88.0, -20.0, 0.0, 20.0, 88.0, 1e4])
    for t in (torch.zeros(7), torch.ones(7), torch.full((7,), 0.25)):
        check(lambda z, t=t: xent.binary_cross_entropy_with_logits(z, t.to(z.dtype), reduction="none"), x)


def test_logsumexp_of_infinities(isa: str) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[-inf, -inf], [inf, 0.0], [nan, inf], [inf, -inf], [inf, nan]])
    with xent.backend("native"):
        torch.testing.assert_close(xent.logsumexp(x, 1), x.logsumexp(1), equal_nan=True)
        torch.testing.assert_close(xent.log_softmax(x, 1), x.log_softmax(1), equal_nan=True)


def test_token_logprobs(isa: str) -> None:
    x, target = torch.randn(6, 11), torch.randint(0, 11, (6,))
    check(lambda t: xent.token_logprobs(t, target, softcap=3.0), x)
