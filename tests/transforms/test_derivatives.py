"""Derivatives of every order and kind, for every loss, against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import xent

TARGET = torch.tensor([0, 3, -100, 2])


@dataclass(frozen=True)
class Case:
    """A loss as a function of its differentiable tensors."""

    name: str
    loss: Callable[..., Tensor]
    shapes: list[tuple[int, ...]] = field(default_factory=lambda: [(4, 5)])

    def tensors(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(7)
        return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in self.shapes]


def _every_term(x: Tensor, weight: Tensor, row_weight: Tensor) -> Tensor:
    return xent.cross_entropy(
        x,
        TARGET,
        weight.exp(),
        row_weight=row_weight,
        label_smoothing=0.1,
        z_loss=0.01,
        softcap=3.0,
        logit_scale=1.5,
    )


def _soft_target(x: Tensor, target: Tensor) -> Tensor:
    return xent.cross_entropy(x, target.softmax(1), label_smoothing=0.2, reduction="sum")


def _stats(x: Tensor) -> Tensor:
    loss, rows = xent.cross_entropy(x, TARGET, stats=True)
    return loss + rows.lse.square().mean() + 0.3 * rows.entropy.sum()


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return xent.linear_cross_entropy(hidden, weight, TARGET, linear_bias=bias, softcap=4.0, z_loss=0.02)


CASES = [
    Case("cross_entropy", lambda x: xent.cross_entropy(x, TARGET)),
    Case("cross_entropy-none", lambda x: xent.cross_entropy(x, TARGET, reduction="none")),
    Case("cross_entropy-every-term", _every_term, [(4, 5), (5,), (4,)]),
    Case("cross_entropy-soft", _soft_target, [(4, 5), (4, 5)]),
    Case("cross_entropy-stats", _stats),
    Case("linear_cross_entropy", _linear, [(4, 3), (5, 3), (5,)]),
    Case("nll_loss", lambda x: xent.nll_loss(x, TARGET)),
    Case("binary_cross_entropy", lambda x, t: xent.binary_cross_entropy(x.sigmoid(), t.sigmoid()), [(4,), (4,)]),
    Case(
        "binary_cross_entropy_with_logits",
        lambda x, t: xent.binary_cross_entropy_with_logits(x, t.sigmoid(), pos_weight=torch.tensor(2.0)),
        [(4,), (4,)],
    ),
    Case("log_softmax", lambda x: xent.log_softmax(x, 1)),
    Case("logsumexp", lambda x: xent.logsumexp(x, (0, 1))),
    Case("token_logprobs", lambda x: xent.token_logprobs(x, TARGET)),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_first_order_reverse_and_forward(case: Case) -> None:
    assert gradcheck(case.loss, case.tensors(), check_forward_ad=True, check_batched_grad=True)


@every_case
def test_second_order(case: Case) -> None:
    assert gradgradcheck(case.loss, case.tensors())


@every_case
def test_func_transforms_agree_with_autograd(case: Case) -> None:
    tensors = [tensor.detach() for tensor in case.tensors()]
    every = tuple(range(len(tensors)))

    def scalar(*inputs: Tensor) -> Tensor:
        return case.loss(*inputs).sum()

    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = torch.autograd.grad(scalar(*leaves), leaves)
    for got, want in zip(torch.func.grad(scalar, every)(*tensors), expected, strict=True):
        torch.testing.assert_close(got, want)
    for got, want in zip(torch.func.jacrev(scalar, every)(*tensors), expected, strict=True):
        torch.testing.assert_close(got, want)
    for got, want in zip(torch.func.jacfwd(scalar, every)(*tensors), expected, strict=True):
        torch.testing.assert_close(got, want)


@every_case
def test_hessian_is_symmetric_and_that_of_autograd(case: Case) -> None:
    first, *rest = (tensor.detach() for tensor in case.tensors())

    def scalar(x: Tensor) -> Tensor:
        return case.loss(x, *rest).sum()

    hessian = torch.func.hessian(scalar)(first)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(scalar, first))
    flat = hessian.reshape(first.numel(), first.numel())
    torch.testing.assert_close(flat, flat.T)


@every_case
def test_vmap_equals_a_loop(case: Case) -> None:
    batch = [torch.stack([tensor.detach(), tensor.detach() * 0.5]) for tensor in case.tensors()]
    looped = torch.stack([case.loss(*(tensor[i] for tensor in batch)) for i in range(2)])
    torch.testing.assert_close(torch.func.vmap(case.loss)(*batch), looped)


def test_per_sample_gradients() -> None:
    logits, target = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])
    per_sample = torch.func.vmap(torch.func.grad(lambda x, y: xent.cross_entropy(x, y, reduction="sum")))
    got = per_sample(logits, target)
    leaf = logits.clone().requires_grad_()
    xent.cross_entropy(leaf, target, reduction="sum").backward()
    torch.testing.assert_close(got, leaf.grad)


def test_backward_twice_needs_retain_graph_and_doubles_the_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    loss = xent.cross_entropy(logits, TARGET)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()  # pyright: ignore[reportOptionalMemberAccess]
    loss.backward()
    torch.testing.assert_close(logits.grad, 2 * once, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_upstream_gradient_scales_the_gradient() -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    (unit,) = torch.autograd.grad(xent.cross_entropy(logits, TARGET), logits)
    upstream = torch.tensor(-2.5, dtype=torch.float64)
    (scaled,) = torch.autograd.grad(xent.cross_entropy(logits, TARGET), logits, upstream)
    torch.testing.assert_close(scaled, -2.5 * unit)
    rows = torch.tensor([1.0, -1.0, 5.0, 0.0], dtype=torch.float64)
    (each,) = torch.autograd.grad(xent.cross_entropy(logits, TARGET, reduction="none"), logits, rows)
    torch.testing.assert_close(each, rows[:, None] * unit * 3)


def test_no_gradient_is_asked_for() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    with torch.no_grad():
        assert not xent.cross_entropy(logits, TARGET).requires_grad
    with torch.inference_mode():
        assert xent.cross_entropy(logits, TARGET).isfinite()
