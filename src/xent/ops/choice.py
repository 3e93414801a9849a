"""Which backend runs a call, and in words why each other one does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from xent.errors import BackendError, DtypeError, OptionError
from xent.ops.request import request as _request
from xent.sparse_target import SparseTarget
from xent.target_checks import switch
from xent.terms import LossOptions

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
# Logits that torch's own kernel takes no longer for than the general path needs before a kernel of ours starts.
TINY = 1 << 18
TINY_ON_A_GPU = 1 << 22  # there a kernel that Python launches costs the host more than the whole of torch's step
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_OPTIONS = set(LossOptions.__annotations__) | {
    "target", "weight", "linear_weight", "linear_bias", "pos_weight", "max_memory",
    "gradient_filter", "stats", "keepdim", "dtype",
    "entropy", "top"
}  # fmt: skip
_NEUTRAL = {"label_smoothing": 0, "z_loss": 0, "shift": 0, "logit_scale": 1, "stats": False}
# The kernels of these columns know nothing of autograd; these packages add it.
_HOME_OF = {"native": "xent.ops.native", "triton": "xent.ops.triton"}
_COLUMNS: dict[str, ModuleType] = {
    name: import_module(_HOME_OF.get(name, f"xent.backends.{name}"))
    for name in BACKENDS
    if find_spec(f"xent.backends.{name}")
}


# One entry for each block of `backend` that is open in any thread: while there are none, a loss of few logits need not
# look up what its thread asks for.
open_blocks: list[str] = []


@dataclass(frozen=True)
class Choice:
    """The backend that runs an operation, and why each other one does not.

    Attributes:
        operation: name of the public function.
        chosen: name of the backend; "torch" where torch's own kernel runs, for few logits and plain options.
        rejected: backend → reason, in words, for every backend that would not run.
        requested: what `xent.backend` asked for, "auto" if nothing.
        note: how the backend would go about it, where it has a choice of its own.
    """

    operation: str
    chosen: str
    rejected: dict[str, str]
    requested: str = "auto"
    note: str = ""

    def __str__(self) -> str:
        how = "automatic choice" if self.requested == "auto" else "asked for by name"
        lines = [f"{self.operation}: {self.chosen} ({how})" + (f", {self.note}" if self.note else "")]
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {
            "operation": self.operation,
            "chosen": self.chosen,
            "requested": self.requested,
            "rejected": dict(self.rejected),
            "note": self.note,
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
    open_blocks.append(name)
    try:
        yield
    finally:
        open_blocks.remove(name)
        _request.name = before


def choices(
    input: Tensor | None = None,
    *tensors: Tensor | SparseTarget,
    operation: str = "cross_entropy",
    **terms: object,
) -> Choice:
    """Which backend would run `operation` on `input`, and why each other one would not.

    Args:
        input: the logits (for `linear_cross_entropy` the hidden states); an empty float32 tensor when left out.
        *tensors: the other tensors of the call, so that a call becomes a question by changing its name.
        operation: name of a public loss function.
        **terms: the options of the call.

    Returns:
        A `Choice`; print it, or read `.chosen` and `.rejected`.

    Raises:
        OptionError: `operation` is not the name of a loss, or an option not one of a loss.
        BackendError: `xent.backend` asks for a backend that can't do this.

    Example:
        >>> import torch, xent
        >>> xent.choices(torch.zeros(3, 5)).chosen
        'torch'
    """
    if operation not in OPERATIONS:
        raise OptionError(f"operation {operation!r}", f"it is one of {', '.join(OPERATIONS)}", "pass one of these")
    if input is None:
        input = torch.empty(0, 1)
    elif not isinstance(input, Tensor):
        raise DtypeError(f"input is a {type(input).__name__}", "it is a tensor", "pass the logits")
    unknown = sorted(set(terms) - _OPTIONS)
    if unknown:
        raise OptionError(
            f"option {unknown[0]!r}", f"options are {', '.join(sorted(_OPTIONS))}", "pass those of the call"
        )
    if operation == "cross_entropy" and _is_tiny(input, tensors, terms):
        most = TINY_ON_A_GPU if input.is_cuda else TINY
        reason = f"at most {most} logits with plain options cost less in torch's own kernel than the way to another"
        return Choice(operation, "torch", dict.fromkeys(BACKENDS, reason))
    others = tuple(_tensors_in((*tensors, *terms.values())))
    asked, chosen = _request.name, _name(operation, input, *others)
    preferred = f"{chosen} comes first" if asked == "auto" else f"{chosen} was asked for by name"
    rejected = {
        name: _reason_against(name, operation, input, *others) or preferred for name in BACKENDS if name != chosen
    }
    note = getattr(_COLUMNS[chosen], "note", lambda *_: "")(operation, (input, *tensors), terms)
    return Choice(operation, chosen, rejected, asked, note)


def _tensors_in(arguments: Iterable[object]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, SparseTarget):
            yield from argument
        elif isinstance(argument, Tensor):
            yield argument


def _is_tiny(input: Tensor, tensors: tuple[Tensor | SparseTarget, ...], terms: dict[str, object]) -> bool:
    """Whether `functional.cross_entropy` hands the call to torch's own kernel in its first lines."""
    return (
        all(_costs_nothing(name, value) for name, value in terms.items())
        and len(tensors) < 2
        and _request.name == "auto"
        and input.dtype in (FLOATS if input.is_cuda else FLOATS[:2])
        and input.numel() <= (TINY_ON_A_GPU if input.is_cuda else TINY)
        and not (switch.on and input.is_cuda)
        and not any(tensor.is_floating_point() for tensor in _tensors_in((*tensors[:1], terms.get("target"))))
    )


def _costs_nothing(name: str, value: object) -> bool:
    if name in ("target", "ignore_index", "reduction") or value is None:
        return True
    return not isinstance(value, Tensor) and value == _NEUTRAL.get(name)


def chosen_name(operation: str, input: Tensor, *others: Tensor | None) -> str:
    """The name of the backend that runs `operation` on `input` and the other tensors of the call."""
    return _name(operation, input, *others)


def column(operation: str, input: Tensor, *others: Tensor | None) -> ModuleType:
    """The file of `operation` in the backend that runs it on `input` and the other tensors of the call."""
    return getattr(_COLUMNS[_name(operation, input, *others)], operation)


def _name(operation: str, input: Tensor, *others: Tensor | None) -> str:
    asked = _request.name
    if asked == "auto":
        names = BACKENDS[1:] if input.is_cuda else BACKENDS  # the native kernels are the CPU's
        return next(name for name in names if _reason_against(name, operation, input, *others) is None)
    reason = _reason_against(asked, operation, input, *others)
    if reason is not None:
        raise BackendError(f"backend {asked!r} was asked for {operation}", reason, "use xent.backend('auto')")
    return asked


def _reason_against(name: str, operation: str, input: Tensor, *others: Tensor | None) -> str | None:
    return _COLUMNS[name].refusal(operation, input, *others) if name in _COLUMNS else _missing(name)


def _missing(name: str) -> str:
    return f"this installation of xent has no {name} column"
