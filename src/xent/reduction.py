"""From rows to one number."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.terms import LossTerms

PIECE = 1 << 12  # torch sums up to 2**15 numbers on one thread; a piece of a row of pieces is summed by one as well


def reduce_rows(loss: Tensor, weight: Tensor, terms: LossTerms) -> Tensor:
    """Rows as they are, their sum, or their sum over the weight of the counted rows (or over `normalizer`)."""
    if terms.reduction == "none":
        return loss
    total = sum_of_rows(loss)
    if terms.reduction == "sum":
        return total
    return total / (sum_of_rows(weight) if terms.normalizer is None else as_denominator(terms.normalizer, total))


def sum_of_rows(values: Tensor) -> Tensor:
    """Their sum, the same to the last bit for any number of threads."""
    count = values.numel()
    if count <= PIECE or values.device.type != "cpu" or torch.compiler.is_compiling():
        return values.sum()
    flat = values.reshape(-1)
    whole = count // PIECE * PIECE
    return sum_of_rows(flat[:whole].view(-1, PIECE).sum(1)) + flat[whole:].sum()


def as_denominator(normalizer: float | Tensor, total: Tensor) -> float | Tensor:
    """The normalizer in the dtype and on the device of the sum, as a scalar.

    One on the CPU stays there: an operation on a GPU takes it as a number, and for a copy the host would wait.
    """
    if not isinstance(normalizer, Tensor):
        return normalizer
    here = normalizer if normalizer.device.type == "cpu" else normalizer.to(total.device)
    return here.to(total.dtype).reshape(())
