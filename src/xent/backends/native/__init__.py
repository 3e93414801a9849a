"""The native column: torch tensors → DLPack → the C++ kernels in native/. Values and gradients, no autograd.

`ops.native` puts torch's autograd on these files.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from xent.backends.native.machine import availability, reason_against_memory
from xent.errors import BackendError

__all__ = ["OPERATIONS", "availability", "description", "reason_against_memory", "refusal"]

OPERATIONS = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "log_softmax",
    "logsumexp",
    "token_logprobs",
)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def description() -> str:
    """One line for people: the instruction set that runs, who chose it and among which, or why none runs."""
    reason = availability()
    if reason is not None:
        return f"none: {reason}"
    from xent.backends.native import _kernels

    error = wrong_isa()
    if error is not None:
        return f"none: {error}"
    by = "forced by XENT_ISA, one of" if os.environ.get("XENT_ISA") else "the widest of"
    return f"{_kernels.isa()}, {by} {', '.join(_kernels.supported_isas())}"


def wrong_isa() -> BackendError | None:
    """What every call of a kernel raises while XENT_ISA names no instruction set of this machine and build."""
    from xent.backends.native import _kernels

    try:
        _kernels.isa()
    except BackendError as error:
        return error
    return None


def refusal(operation: str, input: Tensor) -> str | None:
    """Why this column can't do `operation` on `input`, in words; None when it can."""
    if operation not in OPERATIONS:
        return f"there is no native kernel for {operation}"
    if input.device.type != "cpu":
        return f"its kernels run on the CPU, and input is on {input.device}"
    if input.dtype not in _DTYPES:
        return f"its kernels take float32, float64, bfloat16 and float16, and input is {input.dtype}"
    if input.layout != torch.strided:
        return f"its kernels read strided memory, and input is {input.layout}"
    return availability()
