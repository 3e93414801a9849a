"""Run torch's own loss functions on xent: `torch.nn.functional.*`, and with them the `nn.*Loss` modules."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter
from torch.nn import _reduction as legacy
from torch.overrides import handle_torch_function

from xent.errors import BackendError, OptionError, TargetRangeError, XentError
from xent.functional._binary_cross_entropy import binary_cross_entropy, binary_cross_entropy_with_logits
from xent.functional._cross_entropy import cross_entropy
from xent.functional._linear_cross_entropy import linear_cross_entropy
from xent.functional._nll_loss import nll_loss

_lock = threading.Lock()
_holders = 0
_is_held = False  # beside the count, because compiled code is guarded on it: a nested handle compiles nothing anew
_NAMES = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
_TORCHS: dict[str, Callable[..., Any]] = {name: getattr(F, name) for name in _NAMES if hasattr(F, name)}
_before: dict[str, Callable[..., Any]] = {}  # what stood in torch.nn.functional when the first handle was taken


class Acceleration:
    """The handle of one `xent.accelerate()`: a context manager, or `undo()` by hand."""

    def __init__(self) -> None:
        self._active = True
        _hold()

    def undo(self) -> None:
        """Give torch's functions back, once the last handle is undone; a second call does nothing."""
        with _lock:
            if not self._active:
                return
            self._active = False
            _release()

    def __enter__(self) -> Acceleration:
        if not self._active:
            raise OptionError(
                "this acceleration is undone", "a handle serves once", "call xent.accelerate() for each with block"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<xent.accelerate: {'active' if self._active else 'undone'}, functions {', '.join(_REPLACEMENTS)}>"


def accelerate() -> Acceleration:
    """Run torch's own loss functions on xent from here on, until the returned handle is left or undone.

    Replaces `cross_entropy`, `linear_cross_entropy`, `nll_loss`, `binary_cross_entropy` and
    `binary_cross_entropy_with_logits` in `torch.nn.functional`, through which the `torch.nn.*Loss` modules call them,
    for the whole process. Results keep torch's dtype (a half loss for half inputs). Handles may be nested and left in
    any order and from any thread: torch's functions are back when the last one is undone.

    Left to torch: calls with tensor subclasses; `linear_cross_entropy(options=…)`, which asks for torch's own chunks;
    and calls that xent refuses and torch takes (`label_smoothing=-0.1`, no classes and no rows, …), which give what
    they give without xent (under `torch.compile` outside the graph). A backend asked for by name in `xent.backend`
    still runs or raises.

    A function that was imported by name before (`from torch.nn.functional import cross_entropy`) is not reached. One
    that was kept from inside calls torch's own while no handle is held.

    Returns:
        An `Acceleration`, to be used as a context manager or undone by `.undo()`.

    Cost:
        A few microseconds a call, and a rounded copy of the loss for half inputs.

    Raises:
        OptionError: an undone handle is entered again.
        What the losses raise, where torch raises too.

    Example:
        >>> import torch, xent
        >>> with xent.accelerate():
        ...     torch.nn.CrossEntropyLoss()(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """
    return Acceleration()


def _hold() -> None:
    global _holders, _is_held
    with _lock:
        if _holders == 0:
            for name, replacement in _REPLACEMENTS.items():
                standing = getattr(F, name)
                _before[name] = _TORCHS[name] if standing is replacement else standing
                setattr(F, name, replacement)
        _holders += 1
        _is_held = True


def _release() -> None:
    """Called with the lock held."""
    global _holders, _is_held
    _holders -= 1
    _is_held = _holders > 0
    if not _is_held:
        for name, before in _before.items():
            if getattr(F, name) is _REPLACEMENTS[name]:  # somebody else may have replaced it since
                setattr(F, name, before)


def _in_the_place_of(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap a stand-in for torch's function `name`: what it refuses, and tensor subclasses, are left to torch."""
    original = _TORCHS[name]

    def wrap(stand_in: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(
            original, assigned=("__name__", "__qualname__", "__doc__")
        )  # as torch.*, dynamo keeps it whole
        def replacement(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not _is_held:  # somebody kept the replacement
                return original(input, *args, **kwargs)
            subclassed = [value for value in (input, *args, *kwargs.values()) if _overrides_torch(value)]
            if subclassed:
                return handle_torch_function(original, subclassed, input, *args, **kwargs)
            try:
                return stand_in(input, *args, **kwargs)
            except (TargetRangeError, BackendError):  # wrong for torch too; asked for by name
                raise
            except XentError as refusal:
                try:
                    return original(input, *args, **kwargs)
                except Exception:
                    raise refusal from None

        return replacement

    return wrap


def _overrides_torch(value: object) -> bool:
    """Whether the type of `value` has a say in torch's functions (DTensor, MaskedTensor, …); modes do not count."""
    kind = type(value)
    if kind in (Tensor, Parameter):
        return False
    disabled = torch._C._disabled_torch_function_impl  # what fake and functional tensors carry
    return getattr(kind, "__torch_function__", disabled) is not disabled


def _in_torchs_dtype(loss: Tensor, input: Tensor, *promoting: Tensor | None) -> Tensor:
    """`loss` in the dtype of `input` promoted with the others; under autocast torch's losses are float32 as xent's."""
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):  # never for meta
        return loss
    dtype = input.dtype
    for tensor in promoting:
        if tensor is not None and tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return loss.to(dtype)


def _probabilities_and(target: Tensor, weight: Tensor | None) -> tuple[Tensor | None, ...]:
    """What torch multiplies ln p with; for class indices its kernel keeps the dtype of the input."""
    return (target, weight) if target.is_floating_point() else ()


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Torch's rule for its two deprecated arguments."""
    if size_average is None and reduce is None:
        return reduction
    return legacy.legacy_get_string(size_average, reduce)


@_in_the_place_of("cross_entropy")
def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    loss = cross_entropy(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=_reduction(size_average, reduce, reduction),
        label_smoothing=label_smoothing,
    )
    return _in_torchs_dtype(loss, input, *_probabilities_and(target, weight))


@_in_the_place_of("nll_loss")
def _nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    loss = nll_loss(
        input, target, weight, ignore_index=ignore_index, reduction=_reduction(size_average, reduce, reduction)
    )
    return _in_torchs_dtype(loss, input)


@_in_the_place_of("binary_cross_entropy")
def _binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    loss = binary_cross_entropy(input, target, weight, reduction=_reduction(size_average, reduce, reduction))
    return _in_torchs_dtype(loss, input)


@_in_the_place_of("binary_cross_entropy_with_logits")
def _binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    loss = binary_cross_entropy_with_logits(
        input, target, weight, reduction=_reduction(size_average, reduce, reduction), pos_weight=pos_weight
    )
    # torch works in the memory of 1 − target, whose dtype may be narrower than the input's
    return _in_torchs_dtype(loss, target if target.is_floating_point() else input)


def _linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, options: object = None, **terms: Any
) -> Tensor:
    if options is not None:
        return _TORCHS["linear_cross_entropy"](input, linear_weight, target, options=options, **terms)
    loss = linear_cross_entropy(input, linear_weight, target, **terms)
    return _in_torchs_dtype(loss, input, *_probabilities_and(target, terms.get("weight")))


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll_loss,
    "binary_cross_entropy": _binary_cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy_with_logits,
}
if "linear_cross_entropy" in _TORCHS:  # torch ≥ 2.12
    _REPLACEMENTS["linear_cross_entropy"] = _in_the_place_of("linear_cross_entropy")(_linear_cross_entropy)
