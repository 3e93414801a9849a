"""Negative log likelihood of log-probabilities, row by row: native/losses/nll_loss.h."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.backends.native.cross_entropy import check_targets, kernel_problem
from xent.backends.native.machine import empty_gradient, readable
from xent.problem import Rows


def forward(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (N,)."""
    from xent.backends.native import _kernels

    count = problem.logits.shape[:-1].numel()
    loss, weight = (torch.empty(count, dtype=problem.stats_dtype) for _ in range(2))
    bad_row = _kernels.nll_loss(kernel_problem(problem), {"loss": loss, "weight": weight}, torch.get_num_threads())
    check_targets(bad_row, problem)
    return loss, weight


def gradient(problem: Rows, loss: Tensor) -> Tensor:
    """dL/dinput (*rows, C)."""
    from xent.backends.native import _kernels

    buffer = empty_gradient(problem.logits)
    _kernels.nll_loss_gradient(
        kernel_problem(problem), _kernels.Upstream(readable(loss)), buffer, torch.get_num_threads()
    )
    return buffer
