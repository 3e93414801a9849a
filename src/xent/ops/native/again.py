"""When a backward pass itself must be differentiable, or batched: the derivative of the reference formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_torch_c = torch._C
_LEGACY_BATCHED = _torch_c._dispatch_key_parse("Batched")  # pyright: ignore[reportAttributeAccessIssue]


def kernels_may_run(*upstream: Tensor | None) -> bool:
    """Whether nobody differentiates this backward pass (`create_graph`) or batches it (`is_grads_batched`)."""
    return not torch.is_grad_enabled() and not any(g is not None and is_wrapped(g) for g in upstream)


def is_wrapped(tensor: Tensor) -> bool:
    """Whether the tensor stands for a transform's own tensor, without memory to read."""
    keys = _torch_c._dispatch_keys(tensor)  # pyright: ignore[reportAttributeAccessIssue]
    return keys.has(_LEGACY_BATCHED) or _torch_c._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore


def reference_gradient(
    formula: Callable[[], Sequence[Tensor]], input: Tensor, upstream: Sequence[Tensor | None]
) -> Tensor:
    """The gradient of the formula's values with respect to `input`, differentiable where grad mode asks for it."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        pairs = [(value, g) for value, g in zip(formula(), upstream, strict=True) if g is not None]
        values, gradients = zip(*pairs, strict=True)
        return torch.autograd.grad(values, input, gradients, create_graph=create_graph)[0]
