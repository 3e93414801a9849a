"""How wrong a value may be: no more than torch's own error in the dtype of the arithmetic, plus a few roundings.

    |xent − truth|  ≤  |torch − truth|  +  ε · (ROUNDINGS · response + 2·|truth| + w)

truth is torch's function in float64 on the same numbers. The dtype of the arithmetic is that of xent's result (float32
for the losses of half inputs: torch gets the same half numbers in float32, so that nothing is gained by its rounding
to half), except where half logits come out of a product, which rounds them to half in torch and in xent. ε is its
machine epsilon, twice that in float64, where the truth is as wrong as torch. response is how far the truth moves when
inputs move by a relative amount, per unit of that amount (measured, see `response`): an error that one rounding of the
inputs could have caused is not held against anyone. w is the largest class weight, or 1: a sum of exponentials holds
exp(0) = 1, so that it is known to ε and its logarithm, which the weight multiplies, to an absolute ε; near certainty,
where the loss is far below ε, torch lands on 0 by luck of its order of summation. torch's error alone would not do,
because luck can make it 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .samples import Sample, differentiable, widen

ROUNDINGS = 8  # of the inputs; the response is a largest of few draws, and cancels in part
STEP = 2.0**-24  # relative move of the inputs; small against 1, large against float64's 1.1e-16
DRAWS = 6
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
    budget = (theirs - truth).abs() + epsilon * (
        ROUNDINGS * response(wide, truth) + 2 * truth.abs() + largest_weight(sample)
    )
    excess = ((ours - truth).abs() - budget)[finite]
    assert not (~(excess <= 0)).any(), f"beyond the budget by {excess.max():.3g}, budget {budget[finite].min():.3g}"


def largest_weight(sample: Sample) -> float:
    """The largest weight of a class or an element, 1 at least."""
    named = {**sample.kwargs, **sample.kwargs.get("state", {})}
    weights = [named[name] for name in ("weight", "pos_weight") if isinstance(named.get(name), Tensor)]
    return max([1.0, *(float(weight.abs().max()) for weight in weights if weight.numel())])


def arithmetic_dtype(sample: Sample, ours: Tensor) -> torch.dtype:
    """The dtype whose roundings the result holds."""
    has_product = sample.subject.name in PRODUCTS or "linear_weight" in sample.kwargs
    return sample.args[0].dtype if has_product else ours.dtype


def response(wide: Sample, truth: Tensor) -> Tensor:
    """Largest |Δtruth| / STEP over moves that shrink half of the input entries by STEP, and then the other half.

    Both halves count: errors of single entries do not cancel as a common move does. Shrinking does not leave [0, 1].
    """
    generator = torch.Generator().manual_seed(0)
    largest = torch.zeros_like(truth.abs())
    for _ in range(DRAWS):
        moved = [torch.rand(t.shape, generator=generator) < 0.5 for t in wide.tensors()]
        halves = torch.zeros_like(largest)
        for flip in (False, True):  # the complement too: every entry moves once
            change = (wide.with_tensors(_shrunk(wide, moved, flip)).theirs() - truth).abs() / STEP
            halves += change.nan_to_num(0.0)
        largest = torch.maximum(largest, halves)
    return largest


def _shrunk(wide: Sample, moved: list[Tensor], flip: bool) -> list[Tensor]:
    return [
        torch.where(mask ^ flip, tensor * (1 - STEP), tensor) if differentiable(tensor) else tensor
        for tensor, mask in zip(wide.tensors(), moved, strict=True)
    ]
