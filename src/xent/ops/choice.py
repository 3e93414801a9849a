"""Which backend runs a call, and in words why each other one does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from xent.errors import BackendError, DtypeError, OptionError

BACKENDS = ("native", "triton", "reference")  # an automatic choice takes the first that can
OPERATIONS = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "log_softmax",
    "logsumexp",
    "token_logprobs",
)
_FILE_OF = {"token_logprobs": "cross_entropy"}  # where the file has another name than the operation
_HOME_OF = {"native": "xent.ops.native"}  # the kernels of this column know nothing of autograd; that file adds it
_COLUMNS: dict[str, ModuleType] = {
    name: import_module(_HOME_OF.get(name, f"xent.backends.{name}"))
    for name in BACKENDS
    if find_spec(f"xent.backends.{name}")
}


class _Request(threading.local):
    """What `backend` asks for in this thread; a plain attribute, so that torch.compile can guard on it."""

    name = "auto"


_request = _Request()


@dataclass(frozen=True)
class Choice:
    """The backend that runs an operation, and why each other one does not.

    Attributes:
        operation: name of the public function.
        chosen: name of the backend.
        rejected: backend → reason, in words, for every backend that would not run.
        requested: what `xent.backend` asked for, "auto" if nothing.
    """

    operation: str
    chosen: str
    rejected: dict[str, str]
    requested: str = "auto"

    def __str__(self) -> str:
        how = "automatic choice" if self.requested == "auto" else "asked for by name"
        lines = [f"{self.operation}: {self.chosen} ({how})"]
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {
            "operation": self.operation,
            "chosen": self.chosen,
            "requested": self.requested,
            "rejected": dict(self.rejected),
        }


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Run the losses inside on the backend `name`, or raise; it never falls back in silence.

    The request holds for this thread until the block ends; blocks nest.

    Args:
        name: "auto", "reference", "native" or "triton".

    Raises:
        OptionError: no backend has this name.
        BackendError: this installation does not have the backend; or, at a call inside, the backend can't do it.

    Example:
        >>> import torch, xent
        >>> with xent.backend("reference"):
        ...     xent.cross_entropy(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
    """
    if name != "auto" and name not in BACKENDS:
        raise OptionError(
            f"backend {name!r}", f"it is one of 'auto', {', '.join(map(repr, sorted(BACKENDS)))}", "pass one of these"
        )
    if name != "auto" and name not in _COLUMNS:
        raise BackendError(
            f"backend {name!r} is not here", _missing(name), "use 'auto', which says what it takes in xent.choices()"
        )
    before, _request.name = _request.name, name
    try:
        yield
    finally:
        _request.name = before


def choices(input: Tensor | None = None, *tensors: Tensor, operation: str = "cross_entropy", **terms: object) -> Choice:
    """Which backend would run `operation` on `input`, and why each other one would not.

    Args:
        input: the logits (for `linear_cross_entropy` the hidden states); an empty float32 tensor when left out.
        *tensors: the other tensors of the call, accepted so that a call becomes a question by changing its name.
        operation: name of a public loss function.
        **terms: the options of the call, likewise.

    Returns:
        A `Choice`; print it, or read `.chosen` and `.rejected`.

    Raises:
        OptionError: `operation` is not the name of a loss.
        BackendError: `xent.backend` asks for a backend that can't do this.

    Example:
        >>> import torch, xent
        >>> xent.choices(torch.zeros(3, 5)).chosen
        'reference'
    """
    if operation not in OPERATIONS:
        raise OptionError(f"operation {operation!r}", f"it is one of {', '.join(OPERATIONS)}", "pass one of these")
    if input is None:
        input = torch.empty(0, 1)
    elif not isinstance(input, Tensor):
        raise DtypeError(f"input is a {type(input).__name__}", "it is a tensor", "pass the logits")
    others = tuple(other for other in (*tensors, *terms.values()) if isinstance(other, Tensor))
    asked, chosen = _request.name, _name(operation, input, *others)
    preferred = f"{chosen} comes first" if asked == "auto" else f"{chosen} was asked for by name"
    rejected = {
        name: _reason_against(name, operation, input, *others) or preferred for name in BACKENDS if name != chosen
    }
    return Choice(operation, chosen, rejected, asked)


def column(operation: str, input: Tensor, *others: Tensor | None) -> ModuleType:
    """The file of `operation` in the backend that runs it on `input` and the other tensors of the call."""
    return getattr(_COLUMNS[_name(operation, input, *others)], _FILE_OF.get(operation, operation))


def _name(operation: str, input: Tensor, *others: Tensor | None) -> str:
    asked = _request.name
    if asked == "auto":
        return next(name for name in BACKENDS if _reason_against(name, operation, input, *others) is None)
    reason = _reason_against(asked, operation, input, *others)
    if reason is not None:
        raise BackendError(f"backend {asked!r} was asked for {operation}", reason, "use xent.backend('auto')")
    return asked


def _reason_against(name: str, operation: str, input: Tensor, *others: Tensor | None) -> str | None:
    return _COLUMNS[name].refusal(operation, input, *others) if name in _COLUMNS else _missing(name)


def _missing(name: str) -> str:
    return f"this installation of xent has no {name} column"
