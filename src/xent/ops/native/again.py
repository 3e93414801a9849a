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
    formula: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    upstream: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients of the formula with respect to the needed inputs, differentiable where grad mode asks for it."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases: a target made from the logits must not add its own path to the gradient of the logits.
        aliases = [x.view_as(x) if need and x is not None else x for x, need in zip(inputs, needed, strict=True)]
        values = [
            (value, g)
            for value, g in zip(formula(*aliases), upstream, strict=True)
            if g is not None and value.requires_grad
        ]
        wanted = [x for x, need in zip(aliases, needed, strict=True) if need and x is not None]
        if not values:  # the upstream gradients are those of values that depend on no input
            return (None,) * len(needed)
        outputs, gradients = zip(*values, strict=True)
        found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=create_graph, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
