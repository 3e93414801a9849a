"""Log-softmax: ln softmax(x) = x − logsumexp(x) along one dimension."""

from __future__ import annotations

from torch import Tensor


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """Log-probabilities in the dtype of `input`."""
    return input.log_softmax(dim)
