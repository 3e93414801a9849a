"""Log-sum-exp: logsumexp(x) = m + ln Σ exp(x − m), with m = max x, along one or more dimensions."""

from __future__ import annotations

from torch import Tensor


def logsumexp(input: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    """The log of the sum of exponentials, in the dtype of `input`."""
    return input.logsumexp(dim, keepdim)
