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
from xent.backends.triton.linear_plan import beside_of, plan
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
from xent.problem import drop_last
from xent.sparse_target import SparseTarget

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "note",
    "refusal",
    "token_logprobs",
]

_PLAIN = (Tensor, torch.nn.Parameter)
_LAYER = {"linear_cross_entropy": slice(0, 2), "token_logprobs": slice(1, 3)}  # where linear weight and bias stand
_CLASSES_OF = {"linear_cross_entropy": -1, "token_logprobs": -1, "log_softmax": -1, "logsumexp": -1}
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


def note(operation: str, tensors: tuple[Tensor | SparseTarget, ...], terms: dict[str, object]) -> str:
    """The launch of a call's logits, or how a linear + cross-entropy would be cut, as far as the tensors say it."""
    input, *rest = tensors
    if not isinstance(input, Tensor) or input.ndim == 0 or operation == "binary_cross_entropy_with_logits":
        return ""
    dim = terms.get("dim")
    dim = dim if isinstance(dim, int) else _CLASSES_OF.get(operation, 0 if input.ndim == 1 else 1)
    if not -input.ndim <= dim < input.ndim:
        return ""
    input = input.movedim(dim, -1)
    weight = rest[0] if operation == "linear_cross_entropy" and rest else terms.get("linear_weight")
    if isinstance(weight, Tensor) and weight.ndim >= 2:
        return _plan_in_words(input, weight, terms)
    if operation == "linear_cross_entropy":
        return ""
    from xent.backends.triton.calls import launch_in_words

    return launch_in_words(operation, input)


def _plan_in_words(hidden: Tensor, weight: Tensor, terms: dict[str, object]) -> str:
    bound, shift, bias = terms.get("max_memory"), terms.get("shift"), terms.get("linear_bias")
    if isinstance(shift, int) and shift > 0 and hidden.ndim > 1:
        hidden = drop_last(hidden, shift, dim=-2)
    rows, width = hidden.shape[:-1].numel(), weight.shape[:-1].numel()
    beside = beside_of(hidden, bias if isinstance(bias, Tensor) else None, None)
    bound = bound if isinstance(bound, int) else None
    return str(plan(rows, width, hidden.element_size(), bound, tuple(weight.shape[1:-1]), beside))


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
