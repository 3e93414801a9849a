"""The gradient of bfloat16 rows, whose exponential may be shorter: native/losses/gradient_block_bf16.h."""

from __future__ import annotations

import pytest
import torch

import xent
from xent.backends.native import cross_entropy as kernel
from xent.problem import rows_of
from xent.terms import LossTerms

EXP_ERROR = 2.0**-17.5  # 2^-18.4 of the polynomial, and float32's roundings of z − lse and of the sums
SMALLEST = 2.0**-126  # of p, and below bfloat16's normal numbers


def every_bfloat16() -> torch.Tensor:
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("lse", [0.0, 3.7, -20.3, 80.1, 1000.3])
def test_every_bfloat16(isa: str, lse: float) -> None:
    """A row of all numbers whose lse is given: the gradient of the lse is e^(z − lse), rounded once."""
    every = every_bfloat16()
    logits = every[~every.isnan() & (every.float() - lse <= 60)][None]
    problem = rows_of(logits, torch.tensor([5]), LossTerms())
    saved = kernel.Saved(torch.tensor([lse], dtype=torch.float64))
    got = kernel.gradient(problem, saved, None, torch.ones(1)).double()
    truth = (logits.double() - lse).exp()
    half_a_step = torch.exp2(truth.clamp(min=SMALLEST).log2().floor() - 8)
    spread = 1 + (logits.double() - lse).abs().clamp(max=128) / 72
    allowed = half_a_step + spread * EXP_ERROR * truth + SMALLEST * (truth < 2 * SMALLEST)
    assert bool(((got - truth).abs() <= allowed).all())
    assert bool((got[logits == -torch.inf] == 0).all())


@pytest.mark.parametrize("offset", [0, 3, 15])
def test_the_same_bits_wherever_the_gradient_lies(isa: str, offset: int) -> None:
    logits = torch.randn(3, 1003).to(torch.bfloat16)
    problem = rows_of(logits, torch.tensor([5, 0, 1002]), LossTerms(label_smoothing=0.1))
    saved = kernel.Saved(logits.double().logsumexp(-1))
    buffers = [torch.empty(3 * 1003 + 32, dtype=torch.bfloat16)[at : at + 3 * 1003].view(3, 1003) for at in (0, offset)]
    for buffer, streaming in zip(buffers, (False, True), strict=True):
        kernel.write_gradient(problem, saved, buffer, torch.ones(3), streaming=streaming)
    assert torch.equal(*buffers)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rows_of_huge_logits(isa: str, smoothing: float) -> None:
    """Equal and nearly equal logits up to the largest number, beside an ordinary row: only differences count."""
    classes, largest = 1003, torch.finfo(torch.bfloat16).max
    sizes = [2.0**e for e in (23, 24, 25, 31, 50, 100)] + [largest]
    equal = torch.tensor([sign * size for size in sizes for sign in (1, -1)])[:, None].expand(-1, classes)
    stepped = equal * torch.where(torch.arange(classes) % 2 == 0, 1.0, 1 - 2.0**-8)
    logits = torch.cat([torch.randn(1, classes), equal, stepped]).to(torch.bfloat16).requires_grad_()
    target = torch.arange(len(logits)) * 7
    xent.cross_entropy(logits, target, label_smoothing=smoothing, reduction="sum").backward()
    exact = logits.detach().double()
    p = (exact - exact.amax(-1, keepdim=True)).softmax(-1)  # float64 would lose ln C beside 2^100
    truth = p - smoothing / classes - (1 - smoothing) * torch.nn.functional.one_hot(target, classes)
    assert logits.grad is not None
    half_a_step = torch.exp2(truth.abs().clamp(min=SMALLEST).log2().floor() - 8)
    assert bool(((logits.grad.double() - truth).abs() <= half_a_step + EXP_ERROR * p).all())


@pytest.mark.parametrize("streaming", [False, True])
def test_probabilities_read_as_they_are(isa: str, streaming: bool) -> None:
    """A class weight of 1 takes the long exponential, and the results are within a step of each other."""
    rows, classes = 5, 1003
    logits = (4 * torch.randn(rows, classes)).to(torch.bfloat16)
    logits[3] += 2.0**30
    shares = torch.rand(rows, classes).softmax(-1).to(torch.bfloat16)
    shares[0], shares[1, 5], shares[4, 7] = 0, torch.nan, torch.inf
    problems = [rows_of(logits, shares, terms) for terms in (LossTerms(), LossTerms(weight=torch.ones(classes)))]
    made = []
    for problem in problems:
        values = kernel.forward(problem, with_stats=False)
        saved = kernel.Saved(values["exact_lse"], mass=values["mass"], lse_low=values["lse_low"])
        buffer = torch.empty(rows * classes + 1, dtype=torch.bfloat16)[1:].view(rows, classes)
        kernel.write_gradient(problem, saved, buffer, torch.ones(rows), streaming=streaming)
        made.append(buffer.double())
    short, long = made
    step = torch.exp2(long.abs().clamp(min=SMALLEST).log2().floor() - 7)
    p = (logits.double() - logits.double().amax(-1, keepdim=True)).softmax(-1) * shares.double().sum(-1, keepdim=True)
    close = (short - long).abs() <= step + EXP_ERROR * p
    assert bool((close | (short.isnan() & long.isnan()) | (short == long)).all())
    assert bool(short[1].isnan().all())
