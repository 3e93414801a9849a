"""Calls that torch refuses: xent raises the same class, no later than torch does, in its own words.

Only `linear_cross_entropy` has error samples among the operations; three of the modules have some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import xent

from .every import check_every
from .module_samples import module_database, own_options
from .samples import database
from .subjects import SUBJECTS

OPERATIONS = [(entry, name) for name, subject in SUBJECTS.items() for entry in subject.entries if name in entry[0]]
MODULES_WITH_ERRORS = ("CrossEntropyLoss", "LinearCrossEntropyLoss", "NLLLoss")


@dataclass(frozen=True)
class Refusal:
    """What must raise, the class that torch raises on it, and a pattern of torch's message."""

    call: Callable[[], Any]
    error_type: type[Exception]
    regex: str

    def __str__(self) -> str:
        return f"torch: {self.error_type.__name__}, {self.regex}"


@pytest.mark.parametrize(("entry", "name"), [pytest.param(*pair, id="/".join(pair[0])) for pair in OPERATIONS])
def test_operations(entry, name, passed):
    samples = operation_refusals(entry, name)
    if samples:
        passed(name, "errors", entry[1], check_every(samples, _check_refused))


def operation_refusals(entry: tuple[str, str], name: str) -> list[Refusal]:
    """The calls that torch's entry lists as errors, none for most entries."""
    operation = database()[entry]
    if operation.error_inputs_func is None:
        return []
    torch.manual_seed(0)
    return [_operation_refusal(name, one) for one in operation.error_inputs("cpu")]


def _operation_refusal(name: str, error_input: Any) -> Refusal:
    sample = error_input.sample_input

    def call() -> Any:
        return SUBJECTS[name].ours(sample.input, *sample.args, **own_options(sample.kwargs))

    return Refusal(call, error_input.error_type, error_input.error_regex)


@pytest.mark.parametrize("name", MODULES_WITH_ERRORS)
def test_modules(name, passed):
    passed(name, "errors", "", check_every(module_refusals(name), _check_refused))


def test_no_other_module_has_error_samples():
    with_errors = {name for name, entry in module_database().items() if entry.module_error_inputs_func is not None}
    assert with_errors == set(MODULES_WITH_ERRORS)


def module_refusals(name: str) -> list[Refusal]:
    """The constructions and calls that torch's entry of the module lists as errors."""
    entry = module_database()[name]
    torch.manual_seed(0)
    drawn = entry.module_error_inputs_func(entry, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    return [_module_refusal(name, one) for one in drawn]


def _module_refusal(name: str, error_input: Any) -> Refusal:
    constructor = error_input.module_error_input.constructor_input
    forward = error_input.module_error_input.forward_input
    early = error_input.error_on.name == "CONSTRUCTION_ERROR"

    def call() -> Any:
        module = getattr(xent.nn, name)(*constructor.args, **own_options(constructor.kwargs))
        return module if early else module(*forward.args)

    return Refusal(call, error_input.error_type, error_input.error_regex)


def _check_refused(refusal: Refusal) -> None:
    with pytest.raises(refusal.error_type) as raised:
        refusal.call()
    error = raised.value
    assert isinstance(error, xent.XentError), f"not an error of xent: {error!r}"
    assert error.got
    assert error.need
    assert error.do
