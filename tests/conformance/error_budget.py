"""How wrong a value may be: no more than torch's own error in the dtype of the arithmetic, plus a few roundings.

    |xent − truth|  ≤  |torch − truth|  +  ε · (ROUNDINGS · response + 2·|truth|)

truth is torch's function in float64 on the same numbers. The dtype of the arithmetic is that of xent's result (float32
for the losses of half inputs: torch gets the same half numbers in float32, so that nothing is gained by its rounding
to half), except where half logits come out of a product, which rounds them to half in torch and in xent. ε is its
machine epsilon, twice that in float64, where the truth is as wrong as torch. response is how far the truth moves when
inputs move by a relative amount, per unit of that amount (measured, see `response`): an error that one rounding of the
inputs could have caused is not held against anyone. torch's error alone would not do, because luck can make it 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .samples import Sample, differentiable, widen

ROUNDINGS = 4
STEP = 2.0**-24  # relative move of the inputs; small against 1, large against float64's 1.1e-16
DRAWS = 3
PRODUCTS = ("linear_cross_entropy", "LinearCrossEntropyLoss")


def assert_within_budget(sample: Sample, ours: Tensor, theirs: Tensor) -> None:
    """Assert the inequality above, and NaN and infinities in the same places."""
    wide = sample.widened()
    truth = wide.theirs()
    dtype = arithmetic_dtype(sample, ours)
    epsilon = torch.finfo(dtype).eps * (2 if dtype == torch.float64 else 1)
    if dtype != theirs.dtype:
        theirs = sample.map(lambda tensor: tensor.to(dtype) if differentiable(tensor) else tensor).theirs()
    ours, theirs = widen(ours), widen(theirs)
    finite = truth.isfinite()
    torch.testing.assert_close(ours[~finite], truth[~finite], rtol=0, atol=0, equal_nan=True)
    budget = (theirs - truth).abs() + epsilon * (ROUNDINGS * response(wide, truth) + 2 * truth.abs())
    excess = ((ours - truth).abs() - budget)[finite]
    assert not (~(excess <= 0)).any(), f"beyond the budget by {excess.max():.3g}, budget {budget[finite].min():.3g}"


def arithmetic_dtype(sample: Sample, ours: Tensor) -> torch.dtype:
    """The dtype whose roundings the result holds."""
    has_product = sample.subject.name in PRODUCTS or "linear_weight" in sample.kwargs
    return sample.args[0].dtype if has_product else ours.dtype


def response(wide: Sample, truth: Tensor) -> Tensor:
    """Largest |Δtruth| / STEP over moves that shrink every input entry by STEP or leave it (so [0, 1] is not left)."""
    generator = torch.Generator().manual_seed(0)
    largest = torch.zeros_like(truth.abs())
    for _ in range(DRAWS):
        moved = [torch.rand(t.shape, generator=generator) < 0.5 for t in wide.tensors()]
        for flip in (False, True):  # the complement too: every entry moves at least once
            change = (wide.with_tensors(_shrunk(wide, moved, flip)).theirs() - truth).abs() / STEP
            largest = torch.maximum(largest, change.nan_to_num(0.0))
    return largest


def _shrunk(wide: Sample, moved: list[Tensor], flip: bool) -> list[Tensor]:
    return [
        torch.where(mask ^ flip, tensor * (1 - STEP), tensor) if differentiable(tensor) else tensor
        for tensor, mask in zip(wide.tensors(), moved, strict=True)
    ]
