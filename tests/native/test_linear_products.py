"""Matrix products of half inputs in float32, a block at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import xent
from xent.backends.native import linear_cross_entropy
from xent.backends.native.linear_products import Products, block_bytes, edge_within, widened

HALVES = (torch.bfloat16, torch.float16)
# Inside one block, at its edge, one beyond it, several of them; a depth of 1 and of none.
SHAPES = ((3, 5, 7), (64, 64, 64), (65, 64, 63), (130, 200, 129), (1, 1, 1), (70, 0, 66), (0, 4, 4))


def factors(shape: tuple[int, int, int], dtype: torch.dtype, transposed: bool) -> tuple[Tensor, Tensor]:
    height, depth, width = shape
    generator = torch.Generator().manual_seed(height + depth)
    if transposed:
        a, b = torch.randn(depth, height, generator=generator).t(), torch.randn(width, depth, generator=generator).t()
    else:
        a, b = torch.randn(height, depth, generator=generator), torch.randn(depth, width, generator=generator)
    return a.to(dtype), b.to(dtype)


def rounding(truth: Tensor, a: Tensor, b: Tensor, out: torch.dtype) -> Tensor:
    """Float32 sums err by at most depth · ε Σ|a b|, and are rounded once to `out`."""
    sums = a.double().abs() @ b.double().abs() * max(a.shape[1], 1) * torch.finfo(torch.float32).eps
    return sums + truth.abs() * torch.finfo(out).eps + torch.finfo(out).smallest_normal


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_make_the_product(shape: tuple[int, int, int], transposed: bool, dtype: torch.dtype) -> None:
    a, b = factors(shape, dtype, transposed)
    bias = torch.randn(shape[2]).to(dtype)
    exact = a.double() @ b.double()
    for out_dtype in (dtype, torch.float32):
        out = torch.full((shape[0], shape[2]), 9.0, dtype=out_dtype)
        for given in (None, bias):
            Products(64).write(out, a, b, given)
            truth = exact if given is None else exact + given.double()
            bound = rounding(truth, a, b, out_dtype) + 2 * torch.finfo(torch.float32).eps * truth.abs()
            assert ((out.double() - truth).abs() <= bound).all()
        before = out.double()
        Products(64).add(out, a, b)
        truth = before + exact
        bound = rounding(truth, a, b, out_dtype) + 2 * torch.finfo(torch.float32).eps * (truth.abs() + before.abs())
        assert ((out.double() - truth).abs() <= bound).all()


def test_a_part_of_a_wider_sum_is_added_in_place() -> None:
    a, b = factors((65, 40, 63), torch.bfloat16, transposed=False)
    whole = torch.ones(100, 80)
    Products(64).add(whole[10:75, 5:68], a, b)
    expected = torch.ones(100, 80)
    expected[10:75, 5:68] += a.float() @ b.float()
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)  # order of float32 sums


@pytest.mark.parametrize("with_bias", [False, True])
def test_panels_of_a_wide_product(with_bias: bool) -> None:
    """The first product of a linear loss: wide enough for several panels, the last one narrow."""
    hidden, weight, bias = torch.randn(300, 400), torch.randn(2100, 400), torch.randn(2100)
    out = torch.empty(300, 2100)
    Products().write(out, hidden, weight.t(), bias if with_bias else None)
    truth = hidden.double() @ weight.t().double() + (bias.double() if with_bias else 0)
    bound = rounding(truth, hidden, weight.t(), torch.float32) + torch.finfo(torch.float32).eps * bias.abs().max()
    assert ((out.double() - truth).abs() <= bound).all()


def test_edges_fit_their_memory() -> None:
    assert [edge_within(n << 20) for n in (1, 4, 16, 1000)] == [256, 512, 1024, 1024]
    assert block_bytes(edge_within(4 << 20)) <= 4 << 20
    assert edge_within(0) == 64


def test_full_precision_is_never_widened() -> None:
    assert not widened(torch.float32)
    assert not widened(torch.float64)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("max_memory", [None, 1 << 20])
def test_a_linear_loss_with_widened_products(
    dtype: torch.dtype, max_memory: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every machine, whatever its own products are: gradients as near to float64 as the naive formula's."""
    monkeypatch.setattr(linear_cross_entropy, "widened", lambda dtype: True)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(150, 48, generator=generator).to(dtype)
    weight = (torch.randn(1500, 48, generator=generator) / 7).to(dtype)
    bias = torch.randn(1500, generator=generator).to(dtype)
    target = torch.randint(1500, (150,), generator=generator)
    target[::7] = -100

    def gradients(dtype: torch.dtype, of_xent: bool) -> list[Tensor]:
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (hidden, weight, bias)]
        if of_xent:
            with xent.backend("native"):
                loss = xent.linear_cross_entropy(
                    leaves[0], leaves[1], target, linear_bias=leaves[2], max_memory=max_memory
                )
        else:
            loss = torch.nn.functional.cross_entropy(torch.nn.functional.linear(*leaves), target)
        loss.backward()
        return [leaf.grad.double() for leaf in leaves if leaf.grad is not None]

    truths, naive, own = gradients(torch.float64, False), gradients(dtype, False), gradients(dtype, True)
    for truth, of_naive, of_own in zip(truths, naive, own, strict=True):
        # one rounding of the result is the least that any implementation has
        least = torch.finfo(dtype).eps / 2
        assert (of_own - truth).norm() <= max((of_naive - truth).norm(), least * truth.norm())
