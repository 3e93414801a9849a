"""Who takes part in benchmarks/gpu.py: xent, torch, and those of its peers that are installed.

Calls as in liger-kernel 0.8.5, cut-cross-entropy 25.1.1, quack-kernels 0.6.5 and flash-attn 2.8. Liger writes the
gradient over its input: gpu.py hands every contestant tensors of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def logits_contestants() -> tuple[dict[str, Callable[[Tensor, Tensor], Tensor]], dict[str, str]]:
    """Losses of (logits, target), mean over the rows, and why others are absent."""
    import torch
    import torch._functorch.config as functorch
    import torch.nn.functional as F

    import xent

    def ours(x: Tensor, y: Tensor) -> Tensor:
        with xent.backend("triton"):
            return xent.cross_entropy(x, y)

    # A compiled backward pass that gives its buffers away can't be timed alone, again and again.
    functorch.donated_buffer = False
    found = {"xent": ours, "torch": F.cross_entropy}
    makers = {
        "torch.compile": lambda: torch.compile(F.cross_entropy, dynamic=False),
        "liger": _liger,
        "flash-attn": _flash,
        "quack": _quack,
    }
    return _with_peers(found, makers)


def linear_contestants() -> tuple[dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]], dict[str, str]]:
    """Losses of (hidden, weight, target), mean over the rows, and why others are absent."""
    import torch
    import torch.nn.functional as F

    import xent

    def ours(max_memory: int | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def loss(h: Tensor, w: Tensor, y: Tensor) -> Tensor:
            with xent.backend("triton"):
                return xent.linear_cross_entropy(h, w, y, max_memory=max_memory)

        return loss

    def eager(h: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(h, w).float(), y)

    found = {"xent": ours(None), "xent, 1 GiB": ours(1 << 30), "xent, 16 MiB": ours(16 << 20)}
    found |= {"xent, no logits": ours(1), "torch": eager}
    makers = {
        "torch.compile": lambda: torch.compile(eager, dynamic=False),
        "F.linear_cross_entropy": lambda: F.linear_cross_entropy,  # not in torch 2.11
        "liger": _liger_linear,
        "cce": _cce,
        "quack": _quack_linear,
    }
    return _with_peers(found, makers)


def _with_peers(found: dict[str, Any], makers: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    absent = {}
    for name, maker in makers.items():
        try:
            found[name] = maker()
        except Exception as error:  # not installed, or broken beside these versions, in any way
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return found, absent


def _liger() -> Any:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy


def _flash() -> Any:
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

    return lambda x, y: cross_entropy_loss(x, y)[0].mean()


def _quack() -> Any:
    from quack.cross_entropy import cross_entropy

    return lambda x, y: cross_entropy(x, y, reduction="mean")


def _liger_linear() -> Any:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return liger_fused_linear_cross_entropy


def _cce() -> Any:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy


def _quack_linear() -> Any:
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy
