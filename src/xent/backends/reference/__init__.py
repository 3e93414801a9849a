"""The reference column: plain torch that reads like the paper, for any dtype and device.

It is the definition of every loss: the other columns are tested against it, and it is what derivatives of every order
and kind differentiate. See README.md in this folder.
"""

from __future__ import annotations

from torch import Tensor

from xent.backends.reference import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    nll_loss,
    token_logprobs,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "refusal",
    "token_logprobs",
]


def refusal(operation: str, input: Tensor, *others: Tensor | None) -> str | None:
    """Why this column can't do `operation` on these tensors; None: the reference does everything."""
    del operation, input, others
    return None
