"""The Triton column: torch tensors on a GPU → Triton kernels. Values and gradients, no autograd.

`ops.triton` puts torch's autograd on these files. Importing this package imports no triton: a kernel file does, when
its loss is first asked for.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["INTERPRETED", "OPERATIONS", "availability", "refusal"]

OPERATIONS = (
    "cross_entropy",
    "linear_cross_entropy",
    "binary_cross_entropy_with_logits",
    "log_softmax",
    "logsumexp",
    "token_logprobs",
)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


MISSING = None if find_spec("triton") else "triton is not installed; pip install xent[triton]"
# Read once, as triton does: whether its interpreter stands in for a GPU, on tensors of the CPU.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def availability() -> str | None:
    """Why no kernel can run here, in words; None when they can."""
    return MISSING


def refusal(operation: str, input: Tensor, *, by_name: bool) -> str | None:
    """Why this column can't do `operation` on `input`, in words; None when it can.

    Args:
        operation: name of the loss.
        input: the logits.
        by_name: whether `xent.backend("triton")` asked for it; tensors on the CPU are for the interpreter, which is
            slow, and never chosen.
    """
    if operation not in OPERATIONS:
        return f"there is no Triton kernel for {operation}"
    if input.device.type != "cuda" and not (input.device.type == "cpu" and INTERPRETED):
        return (
            f"its kernels run on a GPU, and input is on {input.device} (TRITON_INTERPRET=1 interprets them, for tests)"
        )
    if input.device.type == "cpu" and not by_name:
        return "Triton's interpreter is for tests, and runs where it is asked for by name"
    if input.device.type == "cuda" and INTERPRETED:
        return "TRITON_INTERPRET=1 has its kernels interpreted on the CPU, and input is on a GPU"
    if input.dtype not in _DTYPES:
        return f"its kernels take float32, float64, bfloat16 and float16, and input is {input.dtype}"
    if input.layout != torch.strided:
        return f"its kernels read strided memory, and input is {input.layout}"
    return availability()
