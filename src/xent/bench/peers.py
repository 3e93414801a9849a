"""The contestants that may not be here, and why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from xent.bench.contest import Entry


def absent(*names: str) -> dict[str, str]:
    """Those of `names` that can't take part on this installation, each with the reason."""
    reasons = {"compiled": _no_compiler, "optax": _no_optax, "cce": _no_cut_cross_entropy}
    return {name: reason for name in names if name in reasons and (reason := reasons[name]())}


def torch_entry(compute: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> Entry:
    """Forward, and backward to `leaves` where there are some: each call makes fresh gradients."""
    if not leaves:
        return Entry(compute, loss=float)

    def run() -> Tensor:
        loss = compute()
        loss.backward()
        return loss

    def reset() -> None:
        for leaf in leaves:
            leaf.grad = None

    return Entry(run, reset, lambda loss: float(loss.detach()), lambda loss: [_gradient(leaf) for leaf in leaves])


def jax_entry(loss: Callable[..., Any], arguments: tuple[Any, ...], num_leaves: int) -> Entry:
    """The same under jax.jit; gradients with respect to the first `num_leaves` arguments, none of them in place."""
    jax: Any = import_module("jax")
    if not num_leaves:
        forward = jax.jit(loss)
        return Entry(lambda: jax.block_until_ready(forward(*arguments)), loss=float)
    both = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(num_leaves))))
    return Entry(
        lambda: jax.block_until_ready(both(*arguments)),
        loss=lambda result: float(result[0]),
        gradients=lambda result: [from_jax(gradient) for gradient in result[1]],
    )


def to_jax(tensor: Tensor) -> Any:
    """The same memory as a jax array where alignment allows it; int32 for integers, jax's default."""
    jax: Any = import_module("jax")
    tensor = tensor.detach()
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.int32)
    return jax.numpy.from_dlpack(tensor.contiguous())


def from_jax(array: Any) -> Tensor:
    """A tensor on the memory of a jax array."""
    return torch.from_dlpack(array)


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise RuntimeError("a contestant left an input without gradient")
    return leaf.grad


def _no_compiler() -> str | None:
    if any(map(shutil.which, ("c++", "g++", "clang++"))):
        return None
    return "torch.compile needs a C++ compiler, and none is on the PATH"


def _no_optax() -> str | None:
    missing = [name for name in ("jax", "optax") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'xent[bench]'" if missing else None


def _no_cut_cross_entropy() -> str | None:
    missing = [name for name in ("cut_cross_entropy", "triton") if find_spec(name) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not installed: pip install cut-cross-entropy (brings triton, 286 MB)"
