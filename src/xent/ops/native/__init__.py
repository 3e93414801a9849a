"""The native column under torch's autograd.

First-order reverse mode with respect to the logits runs the kernels, and of linear_cross_entropy with respect to
targets and weights too. Targets and weights of the other losses that require gradient, and a backward pass that is
itself differentiated (`create_graph`), differentiate the reference formula. What no kernel may see (transforms,
tracing, tensor subclasses) is refused, with the reason.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from xent.backends import native
from xent.errors import XentError
from xent.ops.native import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    nll_loss,
    token_logprobs,
)
from xent.ops.native.again import is_wrapped
from xent.sparse_target import SparseTarget

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "note",
    "refusal",
    "token_logprobs",
]

_PLAIN = (Tensor, torch.nn.Parameter)
_torch_c = torch._C


def refusal(operation: str, input: Tensor, *others: Tensor | None) -> str | None:
    """Why the kernels can't do `operation` on these tensors, in words; None when they can."""
    if torch.compiler.is_compiling():
        return "torch.compile fuses the reference formula itself"
    if _torch_c._len_torch_dispatch_stack() > 0:  # pyright: ignore[reportAttributeAccessIssue]
        return (
            "a dispatch mode (fake tensors, tracing) watches each operation, and its kernels are not torch operations"
        )
    reason = native.refusal(operation, input)
    if reason is not None:
        return reason
    for tensor in (input, *others):
        if tensor is None:
            continue
        reason = _reason_against(tensor)
        if reason is not None:
            return reason
    return None


def note(operation: str, tensors: tuple[Tensor | SparseTarget, ...], terms: dict[str, object]) -> str:
    """How a linear + cross-entropy would be cut, if its linear weight is known; or what its call would raise."""
    hidden, *rest = tensors
    weight = rest[0] if operation == "linear_cross_entropy" and rest else terms.get("linear_weight")
    if not isinstance(hidden, Tensor) or not isinstance(weight, Tensor) or weight.ndim < 2:
        return ""
    given = rest[1:] if operation == "linear_cross_entropy" else rest
    target = given[0] if given else terms.get("target")
    try:
        plan = linear_cross_entropy.plan_of_call(
            hidden, weight, target if isinstance(target, (Tensor, SparseTarget)) else None, terms
        )
    except XentError as error:
        return f"which raises: {error}"
    return str(plan)


def _reason_against(tensor: Tensor) -> str | None:
    if type(tensor) not in _PLAIN:
        return f"its kernels read plain tensors, and this is a {type(tensor).__name__}"
    if is_wrapped(tensor):
        return "torch.func and vmap transform the reference formula"
    if tensor.is_neg() or tensor.is_conj():
        return "its kernels read memory as it stands, and this tensor is a lazy negation"
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return "forward-mode derivatives are those of the reference formula"
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return f"its kernels read CPU memory, and one tensor is {tensor.layout} on {tensor.device}"
    return native.reason_against_memory(tensor)
