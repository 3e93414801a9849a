"""Log-sum-exp over the last dimension: native/losses/logsumexp.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.backends.native.machine import empty_gradient, readable
from xent.problem import stats_dtype


def forward(input: Tensor) -> tuple[Tensor, Tensor]:
    """The result in the dtype of the statistics, and in float64 with NaN for ±inf; each (N,)."""
    from xent.backends.native import _kernels

    count = input.shape[:-1].numel()
    lse = torch.empty(count, dtype=stats_dtype(input.dtype))
    exact_lse = torch.empty(count, dtype=torch.float64)
    _kernels.logsumexp(input.detach(), lse, exact_lse, torch.get_num_threads())
    return lse, exact_lse


def gradient(input: Tensor, exact_lse: Tensor, upstream: Tensor) -> Tensor:
    """dL/dinput (*rows, C)."""
    from xent.backends.native import _kernels

    buffer = empty_gradient(input)
    _kernels.logsumexp_gradient(input.detach(), exact_lse, readable(upstream), buffer, torch.get_num_threads())
    return buffer
