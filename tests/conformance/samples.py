"""torch's samples of an operation as calls that xent's and torch's function both take.

The database is loaded on first use (seconds), never while tests are collected.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .subjects import SUBJECTS, Subject

SEED = 20240229


def shape_of(tensor: Tensor) -> str:
    """Such as int64(2, 3)."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{tuple(tensor.shape)}"


@dataclass(frozen=True, eq=False)
class Sample:
    """One call: the positional and keyword arguments that both functions of the subject take."""

    subject: Subject
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name} {self.signature()}"

    def ours(self) -> Tensor:
        """xent's answer."""
        return self.subject.ours(*self.args, **self.kwargs)

    def theirs(self) -> Tensor:
        """torch's answer."""
        return self.subject.theirs(*self.args, **self.kwargs)

    def tensors(self) -> list[Tensor]:
        """Every tensor of the call."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: list[Tensor] | tuple[Tensor, ...]) -> Sample:
        """The same call on other tensors."""
        leaves, shape = tree_flatten((self.args, self.kwargs))
        following = iter(tensors)
        args, kwargs = tree_unflatten([next(following) if isinstance(x, Tensor) else x for x in leaves], shape)
        return replace(self, args=args, kwargs=kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """The same call with every tensor changed."""
        return self.with_tensors([change(tensor) for tensor in self.tensors()])

    def of_floats(self) -> tuple[Callable[..., Tensor], list[Tensor]]:
        """xent's function of the differentiable tensors alone, and fresh leaves to call it on."""
        tensors = self.tensors()

        def function(*floats: Tensor) -> Tensor:
            following = iter(floats)
            return self.with_tensors([next(following) if differentiable(t) else t for t in tensors]).ours()

        return function, [t.detach().clone().requires_grad_() for t in tensors if differentiable(t)]

    def widened(self) -> Sample:
        """The same numbers in float64 (complex128), indices as they are: what the truth is computed from."""
        sample = self.map(widen)
        input, *rest = sample.args
        if not (input.is_floating_point() or input.is_complex()):
            input = input.double()
        return replace(sample, args=(input, *rest))

    def signature(self, describe: Callable[[Tensor], str] = shape_of) -> str:
        """Tensors as `describe` puts them, and options: what tells two samples apart besides their numbers."""

        def text(value: Any) -> str:
            return describe(value) if isinstance(value, Tensor) else repr(value)

        described = tree_map(text, self.kwargs)
        options = [f"{name}={value}" for name, value in sorted(described.items())]
        return ", ".join([text(value) for value in self.args] + options)

    def _leaves(self) -> list[Any]:
        return tree_flatten((self.args, self.kwargs))[0]


def widen(tensor: Tensor) -> Tensor:
    """The tensor in double precision if it is floating point or complex."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def differentiable(tensor: Tensor) -> bool:
    """Whether a derivative with respect to the tensor exists."""
    return tensor.is_floating_point() or tensor.is_complex()


@cache
def database() -> dict[tuple[str, str], Any]:
    """torch's entries of the operations under test, by name and variant."""
    from torch.testing._internal.common_methods_invocations import op_db

    thaw_backend_flags()
    wanted = {entry for subject in SUBJECTS.values() for entry in subject.entries}
    found = {(op.name, op.variant_test_name): op for op in op_db}
    return {entry: found[entry] for entry in wanted}


def thaw_backend_flags() -> None:
    """Undo what torch's test modules do on import, for the tests that run after these in one process."""
    torch.backends.__allow_nonbracketed_mutation_flag = True  # frozen by torch.backends.disable_global_flags()


@cache
def samples_of(name: str, dtype: torch.dtype) -> tuple[Sample, ...]:
    """Every sample of every entry of the function that lists the dtype."""
    subject = SUBJECTS[name]
    entries = [entry for entry, dtypes in subject.entries.items() if dtype in dtypes]
    return tuple(sample for entry in entries for sample in _entry_samples(subject, entry, dtype))


def _entry_samples(subject: Subject, entry: tuple[str, str], dtype: torch.dtype) -> Iterator[Sample]:
    for number, drawn in enumerate(drawn_samples(entry, dtype)):
        sample = Sample(subject, f"{'/'.join(filter(None, entry))} #{number}", (drawn.input, *drawn.args), drawn.kwargs)
        if subject.name != "token_logprobs":
            yield replace(sample, kwargs={key: value for key, value in drawn.kwargs.items() if key != "options"})
        elif _scores_tokens(sample):
            yield _as_token_logprobs(sample)


@cache
def drawn_samples(entry: tuple[str, str], dtype: torch.dtype) -> tuple[Any, ...]:
    """torch's samples, the same ones in every run."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ComplexHalf support is experimental")  # make_tensor on complex32
        return tuple(database()[entry].sample_inputs("cpu", dtype))


def _scores_tokens(sample: Sample) -> bool:
    """Whether the call is what `token_logprobs` computes: class indices, every class alike."""
    target = sample.args[-1]
    return not target.is_floating_point() and "weight" not in sample.kwargs


def _as_token_logprobs(sample: Sample) -> Sample:
    """The call with the arguments of `token_logprobs`; every reduction becomes one value per row."""
    input, *weights, target = sample.args
    kwargs = {key: value for key, value in sample.kwargs.items() if key not in ("options", "reduction")}
    if weights:
        return replace(sample, args=(input, target), kwargs={**kwargs, "linear_weight": weights[0], "dim": -1})
    return replace(sample, args=(input, target), kwargs={**kwargs, "dim": min(1, input.ndim - 1)})
