"""Losses of causal language models without their logits: `accelerate(model)`.

model.forward(…, labels)     the head defers while it runs
  ├─ head.forward(hidden)    gives DeferredLogits in the place of N×V numbers
  ├─ scale, cap, cast, view  the model's own lines, on the deferred logits
  └─ F.cross_entropy         the model's own loss: linear_cross_entropy of hidden states and the head's weight

Both forwards are bound methods on the instance: a copy of the model carries its own, and no class is changed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from xent.errors import DtypeError, OptionError
from xent.integrations.transformers._deferred_logits import DeferredLogits, Parts

_MARK = "xent_defers"  # on the model: "loss" or "always"
_WHOLE = "shard the model as one unit with its head, or use xent.distributed"
_FLAG = "xent_defers_logits"  # on the head: True while the model's forward makes a loss


class Acceleration:
    """The handle of one `accelerate(model)`: a context manager, or `undo()` by hand."""

    def __init__(self, model: nn.Module, when: str = "loss") -> None:
        self._model = _unwrapped(model)
        self._head = _free_head_of(self._model)
        self._is_active = True
        self._replaced = _install(self._model, self._head, when)

    def undo(self) -> None:
        """Give the model its forward back; a second call does nothing."""
        if self._is_active:
            self._is_active = False
            for module, ours, before in self._replaced:
                _put_back(module, ours, before)
            self._model.__dict__.pop(_MARK, None)
            self._head.__dict__.pop(_FLAG, None)

    def __enter__(self) -> Acceleration:
        if not self._is_active:
            raise OptionError("this acceleration is undone", "a handle serves once", "call accelerate(model) again")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "active" if self._is_active else "undone"
        return f"<xent.integrations.transformers.accelerate: {state}, {type(self._model).__name__}>"


def accelerate(model: nn.Module) -> Acceleration:
    """Make the loss of a transformers model without its logits, until the returned handle is left or undone.

    ::

        loss = linear_cross_entropy(hidden states, head's weight, labels)    instead of    cross_entropy(logits, labels)

    Whenever the model is called with `labels` while gradients are recorded, its head (`get_output_embeddings()`, an
    `nn.Linear`) gives `DeferredLogits`; the model's own code does with them what it does with logits, and where it
    calls torch's `cross_entropy` the loss is `xent.linear_cross_entropy`. Soft caps, scales, shifts, auxiliary losses
    and `num_items_in_batch` are therefore the model's own. Calls without labels, generation and evaluation under
    `torch.no_grad` run as before.

    Args:
        model: a `…ForCausalLM`, or another model of transformers with a linear head and a loss of its own (T5, Bart,
            Llava); or a PEFT model, DistributedDataParallel or torch.compile around it.

    Returns:
        An `Acceleration`, to be used as a context manager or undone by `.undo()`.

    Gradient:
        As the model's own; in half precision closer to it, as the logits are never rounded to the half dtype.

    Edge cases:
        `outputs.logits` of such a call is a `DeferredLogits`: it makes the logits when they are asked for.
        A deep copy of the model is accelerated too, for good; a pickled one is not. `torch.compile` before or after.

    Cost:
        The memory of `linear_cross_entropy`: inputs, gradients and one chunk of logits, never N×V.

    Raises:
        DtypeError: the model has no head, or one that is not a plain `nn.Linear` (quantized, LoRA on the head, tensor
            parallel, sharded).
        OptionError: the model is accelerated already; in its forward, something is done to the logits that
            needs them, by name.

    Example:
        >>> from xent.integrations.transformers import accelerate
        >>> with accelerate(model):  # doctest: +SKIP
        ...     Trainer(model, arguments, train_dataset=tokens).train()

    Differs from `xent.accelerate()`, which runs torch's losses on xent and still takes logits. Both may be on.
    """
    return Acceleration(model)


def deferring(model: nn.Module) -> Acceleration:
    """Let the model give `DeferredLogits` in every call, with labels or without: for scores of rows, a few at a time.

    Raises:
        DtypeError, OptionError: as `accelerate`.
    """
    return Acceleration(model, "always")


def _free_head_of(model: nn.Module) -> nn.Linear:
    head = _head_of(model)
    if hasattr(head, _FLAG):
        raise OptionError(
            f"{type(model).__name__} is accelerated already", "a model is accelerated once", "undo the first handle"
        )
    if "forward" in head.__dict__:
        raise DtypeError(
            f"the head of {type(model).__name__} has a forward of its own, {head.forward}",
            "a loss without logits takes the place of nn.Linear's",
            "undo what replaced it, such as a device_map that moves the head",
        )
    return head


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model of transformers inside compile, DistributedDataParallel and PEFT."""
    while not hasattr(model, "get_output_embeddings") or hasattr(model, "get_base_model"):
        if hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod  # pyright: ignore[reportAssignmentType]
        elif hasattr(model, "get_base_model"):  # PEFT
            model = model.get_base_model()  # pyright: ignore[reportCallIssue]
        elif isinstance(getattr(model, "module", None), nn.Module):  # DistributedDataParallel
            model = model.module  # pyright: ignore[reportAssignmentType]
        else:
            raise DtypeError(
                f"{type(model).__name__} has no get_output_embeddings",
                "the head of a model of transformers is found by it",
                "pass the …ForCausalLM, or call xent.linear_cross_entropy in your own loss",
            )
    return model


def _head_of(model: nn.Module) -> nn.Linear:
    head = model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    kept = getattr(head, "modules_to_save", None)
    if kept is not None:  # PEFT trains a copy of the head
        head = kept[head.active_adapter if isinstance(head.active_adapter, str) else head.active_adapter[0]]
    if type(head) is not nn.Linear:
        got = f"{type(model).__name__} has no head" if head is None else f"its head is a {_path(type(head))}"
        raise DtypeError(
            got if head is None else f"{type(model).__name__}: {got}",
            "a loss without logits needs the weight of an nn.Linear",
            _WHOLE
            if _is_sharded(head)
            else "pass a …ForCausalLM whose head is one, without LoRA or quantization on it",
        )
    return head


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _install(
    model: nn.Module, head: nn.Linear, when: str
) -> list[tuple[nn.Module, MethodType, Callable[..., Any] | None]]:
    """Bind both forwards; returns for each module what was put there and what stood there."""
    replaced = []
    name = type(model).__name__
    for module, forward in ((head, _deferring_forward(name)), (model, _forward_with_deferred_logits(model))):
        ours, before = MethodType(forward, module), module.__dict__.get("forward")
        module.forward = ours
        replaced.append((module, ours, before))
    setattr(model, _MARK, when)
    setattr(head, _FLAG, False)
    return replaced


def _put_back(module: nn.Module, ours: MethodType, before: Callable[..., Any] | None) -> None:
    if module.__dict__.get("forward") is not ours:  # accelerate's autocast stands on ours: it stays, and does nothing
        return
    if before is None:
        del module.forward
    else:
        module.forward = before


def _deferring_forward(owner: str) -> Callable[[nn.Linear, Tensor], Tensor | DeferredLogits]:
    def forward(self: nn.Linear, input: Tensor) -> Tensor | DeferredLogits:
        if not getattr(self, _FLAG, False):
            return nn.functional.linear(input, self.weight, self.bias)
        _check_plain(self, owner)
        dtype = input.dtype
        device = input.device.type
        if dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return DeferredLogits(Parts(input, self.weight, self.bias), dtype, owner)

    return forward


def _check_plain(head: nn.Linear, owner: str) -> None:
    if type(head.weight) not in (Tensor, Parameter) or _is_sharded(head):
        raise DtypeError(
            f"the head of {owner} holds a {_path(type(head.weight))} in a {_path(type(head))}",
            "a loss without logits needs the whole weight after the head's forward",
            _WHOLE,
        )


def _is_sharded(head: nn.Module | None) -> bool:
    """Whether `fully_shard` was applied to the head by itself."""
    return any(base.__name__ == "FSDPModule" for base in type(head).__mro__)


def _forward_with_deferred_logits(model: nn.Module) -> Callable[..., Any]:
    before = model.__dict__.get("forward")
    original = type(model).forward
    names = list(inspect.signature(before or original.__get__(model)).parameters)
    place = names.index("labels") if "labels" in names else None

    @functools.wraps(original)  # the Trainer reads the signature
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        call = before or functools.partial(original, self)
        when = getattr(self, _MARK, None)  # None once it is undone, where accelerate's autocast stands on this forward
        labels = args[place] if place is not None and len(args) > place else kwargs.get("labels")
        if when is None or (when == "loss" and (labels is None or not torch.is_grad_enabled())):
            return call(*args, **kwargs)
        head = _head_of(self)
        if not hasattr(head, _FLAG):
            raise OptionError(
                f"the head of {type(self).__name__} was replaced since accelerate(model)",
                "the first one gave the deferred logits",
                "undo it and call accelerate(model) again",
            )
        setattr(head, _FLAG, True)
        try:
            return _released(call(*args, **kwargs))
        finally:
            setattr(head, _FLAG, False)

    return forward


def _released(output: Any) -> Any:
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else ()
    for value in values:
        if isinstance(value, DeferredLogits):
            value.is_released = True
    return output
