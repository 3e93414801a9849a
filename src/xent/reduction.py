"""From rows to one number."""

from __future__ import annotations

from torch import Tensor

from xent.terms import LossTerms


def reduce_rows(loss: Tensor, weight: Tensor, terms: LossTerms) -> Tensor:
    """Rows as they are, their sum, or their sum over the weight of the counted rows (or over `normalizer`)."""
    if terms.reduction == "none":
        return loss
    total = loss.sum()
    if terms.reduction == "sum":
        return total
    return total / (weight.sum() if terms.normalizer is None else as_denominator(terms.normalizer, total))


def as_denominator(normalizer: float | Tensor, total: Tensor) -> float | Tensor:
    """The normalizer in the dtype and on the device of the sum, as a scalar."""
    if isinstance(normalizer, Tensor):
        return normalizer.to(device=total.device, dtype=total.dtype).reshape(())
    return normalizer
