"""The native column: torch tensors → DLPack → the C++ kernels in native/. Values and gradients, no autograd.

`ops.native` puts torch's autograd on these files.
"""

from __future__ import annotations

import os
from importlib import import_module

import torch
from torch import Tensor

from xent.backends.native.machine import availability

__all__ = ["OPERATIONS", "availability", "kernels_info", "refusal"]

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


def kernels_info() -> dict[str, object]:
    """What the environment report shows: instruction set, threads, or why there are none."""
    reason = availability()
    if reason is not None:
        return {"available": False, "reason": reason}
    kernels = import_module("xent.backends.native._kernels")
    return {
        "available": True,
        "isa": kernels.isa(),
        "supported_isas": kernels.supported_isas(),
        "forced_isa": os.environ.get("XENT_ISA"),
        "threads": torch.get_num_threads(),
    }


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
