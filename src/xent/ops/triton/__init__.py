"""The Triton column under torch's autograd, and under torch.compile as operations of torch.library.

First-order reverse mode with respect to the logits (of linear_cross_entropy to hidden states, weight and bias) runs the
kernels. Targets and weights that require gradient, and a backward pass that is itself differentiated, differentiate
the reference formula. What no kernel may see (transforms, tensor subclasses) is refused, with the reason.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from xent.backends import triton
from xent.ops.native.again import is_wrapped
from xent.ops.request import request
from xent.ops.triton import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    token_logprobs,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "refusal",
    "token_logprobs",
]

_PLAIN = (Tensor, torch.nn.Parameter)
_LAYER = {"linear_cross_entropy": slice(0, 2), "token_logprobs": slice(1, 3)}  # where linear weight and bias stand
_torch_c = torch._C


def refusal(operation: str, input: Tensor, *others: Tensor | None) -> str | None:
    """Why the kernels can't do `operation` on these tensors, in words; None when they can."""
    reason = triton.refusal(operation, input, by_name=request.name == "triton")
    if reason is not None:
        return reason
    if torch.compiler.is_compiling():
        return _reason_in_a_graph(operation, others)
    if _torch_c._len_torch_dispatch_stack() > 0:  # pyright: ignore[reportAttributeAccessIssue]
        return (
            "a dispatch mode (fake tensors, tracing) watches each operation, and its kernels are not torch operations"
        )
    for tensor in (input, *others):
        reason = None if tensor is None else _reason_against(tensor, input)
        if reason is not None:
            return reason
    return None


def _reason_in_a_graph(operation: str, others: tuple[Tensor | None, ...]) -> str | None:
    if operation == "token_logprobs":
        return "in a compiled graph entropies and best classes are those of the reference formula"
    layer = others[_LAYER[operation]] if operation in _LAYER else ()
    for tensor in others:
        if tensor is not None and tensor.requires_grad and not any(tensor is part for part in layer):
            return "in a compiled graph the gradient of targets and weights is that of the reference formula"
    return None


def _reason_against(tensor: Tensor, input: Tensor) -> str | None:
    if type(tensor) not in _PLAIN:
        return f"its kernels read plain tensors, and this is a {type(tensor).__name__}"
    if is_wrapped(tensor):
        return "torch.func and vmap transform the reference formula"
    if tensor.is_neg() or tensor.is_conj():
        return "its kernels read memory as it stands, and this tensor is a lazy negation"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return "forward-mode derivatives are those of the reference formula"
    if tensor.device != input.device or tensor.layout != torch.strided:
        return f"its kernels read memory of one device, and one tensor is {tensor.layout} on {tensor.device}"
    return None
