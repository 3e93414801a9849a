"""The loss again after a step: one extra forward pass that leaves no trace."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from xent.errors import ShapeError
from xent.inspection._hooks import ForwardHook
from xent.inspection._patches import RandomState
from xent.inspection._tensor_copies import copied, same_bits


class Rerun:
    """Runs a loss again with the random numbers of the block's forward pass.

    Random state is that at the model's first forward pass in the block, or at the block's beginning where the model
    has none (a forward hook does not fire on a model that overrides `__call__` or compiles it in place).
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self.random = RandomState()
        self._seen = False

    @property
    def model(self) -> nn.Module | None:
        """The model, as long as somebody else keeps it."""
        return None if self._model is None else self._model()

    def listen(self, stack: ExitStack) -> None:
        """Note the random state at the first forward pass from here on."""
        model = self.model
        if model is not None and getattr(model, "_compiled_call_impl", None) is None:
            stack.callback(model.register_forward_pre_hook(ForwardHook(self._forward_begins)).remove)

    def _forward_begins(self, module: nn.Module, args: Any) -> None:
        if not self._seen:
            self._seen, self.random = True, RandomState()

    def value(self, loss: Callable[[], Any]) -> float:
        """The loss as it is now; random state and buffers are put back, whatever happens."""
        now, buffers = RandomState(), self._buffers()
        self.random.put_back()
        try:
            with torch.no_grad():
                result = loss()
            if isinstance(result, Tensor) and result.numel() != 1:
                raise ShapeError(
                    f"the closure gave a tensor of shape {tuple(result.shape)}", "a loss is one number",
                    "return the reduced loss",
                )  # fmt: skip
            return float(result)
        finally:
            now.put_back()
            _put_back(buffers)

    def _buffers(self) -> list[tuple[nn.Module, str, Tensor, Tensor]]:
        model = self.model
        if model is None:
            return []
        return [
            (module, name, buffer, copied(buffer))
            for module in model.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]


@torch.no_grad()
def _put_back(buffers: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    for module, name, buffer, was in buffers:
        if getattr(module, name) is not buffer:
            setattr(module, name, buffer)
        if not same_bits(buffer.detach(), was):
            buffer.copy_(was)
