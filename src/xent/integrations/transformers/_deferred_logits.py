"""Logits that nobody has made: what a head gives to the loss in the place of a table of N rows and V classes.

A model does little with its logits before the loss: it scales or caps them, casts them, cuts rows off and flattens
them. All of that can be done to the hidden states, or be noted; `torch.nn.functional.cross_entropy` of the result is
`linear_cross_entropy` of the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as legacy

from xent.errors import OptionError, ShapeError
from xent.functional import linear_cross_entropy


class Parts(NamedTuple):
    """What logits are made of: `steps` applied to hidden · weightᵀ + bias."""

    hidden: Tensor  # (*rows, D)
    weight: Tensor  # (V, D)
    bias: Tensor | None  # (V,)
    steps: tuple[tuple[str, Any], ...] = ()  # ("times", 0.5), ("over", 30.0), ("tanh", None), ("to", torch.float32)


class DeferredLogits:
    """Logits (*rows, V) as hidden states and the weight of the head, until somebody asks for numbers.

    Not a `torch.Tensor`, but it goes where one goes: shape, dtype and device are those of the logits; scaling, tanh,
    casts, views and row indices give another `DeferredLogits`; `torch.nn.functional.cross_entropy` gives the loss
    without the logits. Anything else makes them, once the model's forward is over (`tensor()` does so by name), and
    raises inside of it, where the loss would be of logits that somebody changed.

    Attributes:
        parts: hidden states, weight, bias and what was done to the logits since.
        owner: the class of the model, for messages.
        is_released: whether the forward that made it is over.
    """

    def __init__(self, parts: Parts, dtype: torch.dtype, owner: str, is_released: bool = False) -> None:
        self.parts = parts
        self.dtype = dtype
        self.owner = owner
        self.is_released = is_released

    @property
    def shape(self) -> torch.Size:
        """(*rows, V)."""
        return torch.Size((*self.parts.hidden.shape[:-1], self.parts.weight.shape[0]))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.parts.hidden.ndim

    @property
    def device(self) -> torch.device:
        """Where the logits would be."""
        return self.parts.hidden.device

    @property
    def requires_grad(self) -> bool:
        """Whether a loss of the logits would have a gradient."""
        return any(part.requires_grad for part in self.parts[:3] if part is not None)

    def tensor(self) -> Tensor:
        """The logits, made now: (*rows, V), differentiable as long as the graph behind the hidden states is there."""
        hidden, weight, bias, steps = self.parts
        logits = F.linear(hidden, weight, bias)
        for name, value in steps:
            logits = _STEPS[name](logits, value)
        return logits

    def size(self, dim: int | None = None) -> Any:
        """As `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """As `Tensor.dim`."""
        return self.ndim

    def numel(self) -> int:
        """As `Tensor.numel`."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """True."""
        return True

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeferredLogits(shape={tuple(self.shape)}, dtype={self.dtype}, of {self.owner})"

    def contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> DeferredLogits:
        """Itself: there is no memory to order."""
        return self

    def float(self) -> DeferredLogits:
        """As `Tensor.float`."""
        return self._cast(torch.float32)

    def double(self) -> DeferredLogits:
        """As `Tensor.double`."""
        return self._cast(torch.float64)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As `Tensor.to`, of a dtype or of the device that it is on."""
        wanted = kwargs.get("dtype", kwargs.get("device", args[0] if args else None))
        if len(args) + len(kwargs) == 1 and isinstance(wanted, torch.dtype):
            return self._cast(wanted)
        if len(args) + len(kwargs) == 1 and wanted == self.device:
            return self
        return self._made("to").to(*args, **kwargs)

    def view(self, *shape: Any) -> Any:
        """As `Tensor.view`, of the rows: the last size is V or −1."""
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        num_classes = self.shape[-1]
        if not sizes or not all(isinstance(size, int) for size in sizes) or not self._keeps_classes(sizes):
            return self._made("view").reshape(*shape)
        return self._with(hidden=self.parts.hidden.reshape((*_row_sizes(sizes, self.shape, num_classes), -1)))

    reshape = view

    def __getitem__(self, index: Any) -> Any:
        entries = index if isinstance(index, tuple) else (index,)
        if any(entry is None or isinstance(entry, bool) for entry in entries):
            return self._made("[None]")[index]
        rows, classes = _split(entries, self.ndim)
        if isinstance(classes, slice) and classes.step in (None, 1):
            bias = self.parts.bias
            kept = self._with(weight=self.parts.weight[classes], bias=None if bias is None else bias[classes])
            return kept._with(hidden=kept.parts.hidden[rows])
        return self._made("[…, classes]")[index]

    def tanh(self) -> DeferredLogits:
        """As `Tensor.tanh`: half of a soft cap."""
        return self._after("tanh", None)

    def __mul__(self, other: Any) -> Any:
        return self._after("times", other) if _is_number(other) else self._made("*") * _tensor(other)

    def __truediv__(self, other: Any) -> Any:
        return self._after("over", other) if _is_number(other) else self._made("/") / _tensor(other)

    __rmul__ = mul = multiply = __mul__
    div = true_divide = __truediv__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(f"'DeferredLogits' object has no attribute {name!r}")
        if name.endswith("_"):
            self._refuse_in_place(name)
        return getattr(self._made(name), name)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._refuse_in_place("[…] = …")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._made("numpy").detach().numpy().astype(dtype)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if args and isinstance(args[0], cls) and name in _FUNCTIONS:
            return _FUNCTIONS[name](*args, **(kwargs or {}))
        made = [_tensor(value, name) for value in args]
        return func(*made, **{key: _tensor(value, name) for key, value in (kwargs or {}).items()})

    def _cast(self, dtype: torch.dtype) -> Any:
        if dtype == self.dtype:
            return self
        if dtype not in (torch.float32, torch.float64):
            return self._made(f"to({dtype})").to(dtype)
        return self._after("to", dtype)

    def _keeps_classes(self, sizes: tuple[int, ...]) -> bool:
        return sizes[-1] == self.shape[-1] or (
            sizes[-1] == -1 and _product(sizes[:-1]) * self.shape[-1] == self.numel()
        )

    def _with(self, **changed: Any) -> DeferredLogits:
        return DeferredLogits(self.parts._replace(**changed), self.dtype, self.owner, self.is_released)

    def _after(self, name: str, value: Any) -> DeferredLogits:
        parts = self.parts._replace(steps=(*self.parts.steps, (name, value)))
        return DeferredLogits(parts, value if name == "to" else self.dtype, self.owner, self.is_released)

    def _made(self, operation: str) -> Tensor:
        if not self.is_released:
            raise refusal(self.owner, f"applies {operation} to its logits before it returns")
        return self.tensor()

    def _refuse_in_place(self, operation: str) -> None:
        if not self.is_released:
            raise refusal(self.owner, f"applies {operation} to its logits before it returns")
        raise OptionError(
            f"{operation} changes the deferred logits of {self.owner}",
            "they are made anew whenever they are asked for, so that the change would be lost",
            "take logits = outputs.logits.tensor() first",
        )


def refusal(owner: str, does: str) -> OptionError:
    """The error of a model whose loss needs its logits."""
    return OptionError(
        f"{owner} {does}",
        "its loss is made without them: scales, tanh, casts, views and row indices are followed",
        "train it without xent.integrations.transformers.accelerate",
    )


def _cross_entropy(
    input: DeferredLogits,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` of logits that are not there, in their dtype."""
    if input.ndim > 2:
        raise ShapeError(
            f"deferred logits of shape {tuple(input.shape)}",
            "torch's cross_entropy has its classes in dim 1",
            "flatten logits to (N, V) and labels to (N,)",
        )
    if size_average is not None or reduce is not None:
        reduction = legacy.legacy_get_string(size_average, reduce)
    hidden, linear_weight, bias, steps = input.parts
    scale, softcap = _curve(input.owner, steps)
    loss = linear_cross_entropy(
        hidden,
        linear_weight,
        target,
        linear_bias=bias,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        softcap=softcap,
        logit_scale=scale,
    )
    return loss.to(input.dtype)


def _curve(owner: str, steps: tuple[tuple[str, Any], ...]) -> tuple[float, float | None]:
    """The scale and the cap of a chain of steps: c·tanh(a·z) is a cap of c after a scale of a·c."""
    before, after, is_capped = 1.0, 1.0, False
    for name, value in steps:
        if name == "tanh":
            if is_capped:
                raise refusal(owner, "applies tanh twice to its logits")
            is_capped = True
        elif name in ("times", "over"):
            factor = value if name == "times" else 1.0 / value
            before, after = (before, after * factor) if is_capped else (before * factor, after)
    if is_capped and after <= 0:
        raise refusal(owner, f"scales its capped logits by {after:g}, which is no cap,")
    return (before * after, after) if is_capped else (before, None)


_STEPS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "times": lambda logits, factor: logits * factor,
    "over": lambda logits, divisor: logits / divisor,
    "tanh": lambda logits, _: torch.tanh(logits),
    "to": lambda logits, dtype: logits.to(dtype),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cross_entropy": _cross_entropy,
    "tanh": DeferredLogits.tanh,
    "mul": DeferredLogits.__mul__,
    "multiply": DeferredLogits.__mul__,
    "div": DeferredLogits.__truediv__,
    "true_divide": DeferredLogits.__truediv__,
}


def _binary(name: str) -> Callable[..., Any]:
    def operation(self: DeferredLogits, other: Any) -> Any:
        return getattr(self._made(name), name)(_tensor(other))

    return operation


for _name in ("add", "radd", "sub", "rsub", "rtruediv", "pow", "matmul", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(DeferredLogits, f"__{_name}__", _binary(f"__{_name}__"))
DeferredLogits.__neg__ = lambda self: -self._made("negation")  # pyright: ignore[reportAttributeAccessIssue]
DeferredLogits.__hash__ = object.__hash__  # __eq__ compares numbers, as a tensor's


def _tensor(value: Any, operation: str = "arithmetic") -> Any:
    if isinstance(value, DeferredLogits):
        return value._made(operation)
    if isinstance(value, (list, tuple)) and any(isinstance(item, DeferredLogits) for item in value):
        return type(value)(_tensor(item, operation) for item in value)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _row_sizes(sizes: tuple[int, ...], shape: torch.Size, num_classes: int) -> tuple[int, ...]:
    """The sizes of a view without its classes, with a −1 replaced: −1 of the features would be ambiguous."""
    rows, known = sizes[:-1], 1
    for size in rows:
        known *= 1 if size == -1 else size
    return tuple(_product(tuple(shape[:-1])) // max(known, 1) if size == -1 else size for size in rows)


def _split(entries: tuple[Any, ...], ndim: int) -> tuple[tuple[Any, ...], Any]:
    """An index of the logits as one of the hidden states, whose features it keeps, and one of the classes."""
    has_ellipsis = any(entry is Ellipsis for entry in entries)
    taken = sum(_dims_taken(entry) for entry in entries if entry is not Ellipsis)
    if entries and entries[-1] is not Ellipsis and (has_ellipsis or taken == ndim):
        return (*entries[:-1], slice(None)), entries[-1]
    if taken == ndim:  # […, the ellipsis stands for nothing, last]
        return entries, None
    return entries, slice(None)


def _dims_taken(entry: Any) -> int:
    return entry.ndim if isinstance(entry, Tensor) and entry.dtype == torch.bool else 1
