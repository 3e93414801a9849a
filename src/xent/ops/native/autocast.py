"""torch.autocast around the products of a linear loss, on the device of its tensors: `xent.distributed` has some on GPUs.

Autocast changes operations of torch, not kernels: what F.linear would do is done here. Gradients come back through the
casts in the dtypes of the caller's tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from xent.head import HeadRows, product_dtype

_Backward = Callable[..., tuple[Tensor | None, ...]]


def with_casts(problem: HeadRows) -> HeadRows:
    """The problem with input, weight and bias as F.linear would take them; the same outside autocast."""
    if not torch.is_autocast_enabled(problem.hidden.device.type):
        return problem
    hidden, weight, bias = (
        None if x is None else x.to(product_dtype(x)) for x in (problem.hidden, problem.weight, problem.bias)
    )
    return problem if hidden is None or weight is None else replace(problem, hidden=hidden, weight=weight, bias=bias)


def outside_autocast(backward: _Backward) -> _Backward:
    """Run a backward pass without autocast, whatever surrounds it: its products have the dtypes of the forward pass."""

    @wraps(backward)
    def run(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        devices = {gradient.device.type for gradient in gradients if gradient is not None}
        with ExitStack() as without:
            for device in devices:
                if torch.is_autocast_enabled(device):
                    without.enter_context(torch.autocast(device, enabled=False))
            return backward(ctx, *gradients)

    return run
