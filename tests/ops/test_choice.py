"""The choice of a backend: by name it runs or raises, automatically it can be explained."""

from __future__ import annotations

import importlib
import json
import threading
from typing import Any

import pytest
import torch

import xent
from xent.errors import BackendError, OptionError
from xent.ops.choice import _COLUMNS, BACKENDS, OPERATIONS

MISSING = [name for name in BACKENDS if name not in _COLUMNS]
LOGITS, TARGET = torch.zeros(2, 4), torch.tensor([1, 3])


def test_every_backend_is_chosen_or_has_a_reason() -> None:
    for operation in OPERATIONS:
        choice = xent.choices(LOGITS, TARGET, operation=operation)
        assert choice.chosen in (*BACKENDS, "torch")
        assert {choice.chosen, *choice.rejected} - {"torch"} == set(BACKENDS)
        assert all(len(reason.split()) > 2 for reason in choice.rejected.values())


def test_a_choice_prints_and_serialises() -> None:
    choice = xent.choices(LOGITS, TARGET, label_smoothing=0.1)
    assert str(choice).startswith(f"cross_entropy: {choice.chosen} (automatic choice)")
    assert json.loads(json.dumps(choice.to_dict()))["chosen"] == choice.chosen
    assert xent.choices().operation == "cross_entropy"


def test_a_tiny_plain_call_is_said_to_run_on_torch() -> None:
    assert xent.choices(LOGITS, TARGET, reduction="sum", label_smoothing=0.0, weight=None).chosen == "torch"
    for other in ({"label_smoothing": 0.1}, {"row_weight": torch.ones(2)}, {"dim": 1}, {"stats": True}):
        assert xent.choices(LOGITS, TARGET, **other).chosen != "torch"
    assert xent.choices(LOGITS.bfloat16(), TARGET).chosen != "torch"
    assert xent.choices(torch.zeros(2, 1 << 18), TARGET).chosen != "torch"
    with xent.backend("reference"):
        assert xent.choices(LOGITS, TARGET).chosen == "reference"


@pytest.mark.skipif("native" in MISSING, reason="no native column to make a plan")
def test_a_linear_choice_says_how_it_is_cut() -> None:
    hidden, head = torch.empty(2048, 768), torch.empty(50257, 768)
    choice = xent.choices(hidden, head, operation="linear_cross_entropy")
    assert "304 rows at a time" in str(choice)
    bounded = {"operation": "linear_cross_entropy", "max_memory": 16 << 20}
    assert "82 rows at a time" in xent.choices(hidden, head, **bounded).note  # frozen: no gradient is summed over rows
    assert "classes at a time" in xent.choices(hidden, head.requires_grad_(), **bounded).note
    few = xent.choices(hidden[:700], head, **bounded)
    assert "kept in the memory of the weight's gradient" in few.note


@pytest.mark.skipif("native" in MISSING, reason="no native column to make a plan")
@pytest.mark.parametrize(
    ("shape", "head", "options"),
    [
        ((6, 4, 8), (900, 8), {"shift": 1}),
        ((6, 8, 4), (900, 8), {"dim": 1}),
        ((24, 8), (300, 3, 8), {"reduction": "none"}),
        ((24, 8), (900, 8), {"ignored": True, "label_smoothing": 0.1}),
        ((24, 8), (900, 8), {"sparse": 40}),
        ((24, 8), (900, 8), {"soft": True, "label_smoothing": 0.1}),
        ((24, 8), (900, 8), {"top": 30}),
    ],
)
def test_a_linear_choice_is_that_of_the_call(
    shape: tuple[int, ...], head: tuple[int, ...], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan that the question names is the one that the call then makes."""
    from xent.backends.native import linear_cross_entropy as kernel

    options = {"max_memory": 40_000, **options} if "top" not in options else dict(options)
    hidden, weight = torch.randn(shape), torch.randn(head, requires_grad=True)
    rows = [size for i, size in enumerate(shape) if i != options.get("dim", len(shape) - 1)]
    target = torch.zeros(*rows, *head[1:-1], dtype=torch.long)
    if options.pop("ignored", False):
        target[::2] = -100
    if options.pop("soft", False):
        target = torch.rand(24, 900)
    if k := options.pop("sparse", 0):
        target = xent.SparseTarget(torch.zeros(24, k, dtype=torch.long), torch.rand(24, k))
    top, cuts, real = "top" in options, [], kernel.plan
    operation = "token_logprobs" if top else "linear_cross_entropy"
    given = (hidden, target) if top else (hidden, weight, target)
    options |= {"linear_weight": weight} if top else {}
    with xent.backend("native"):
        note = xent.choices(*given, operation=operation, **options).note
        monkeypatch.setattr(kernel, "plan", lambda *size, **how: cuts.append(real(*size, **how)) or cuts[-1])
        getattr(xent, operation)(*given, **options)
    assert note == str(cuts[-1])


@pytest.mark.skipif("native" in MISSING, reason="no native column to make a plan")
def test_a_linear_choice_says_what_the_call_would_raise() -> None:
    given, options = (torch.randn(24, 8), torch.randn(900, 8)), {"operation": "linear_cross_entropy", "max_memory": 5}
    with xent.backend("native"):
        assert "which raises: max_memory=5 bytes" in xent.choices(*given, **options).note


def test_an_unknown_option_raises() -> None:
    with pytest.raises(OptionError, match="option 'margin'"):
        xent.choices(LOGITS, margin=3)


def test_a_backend_asked_for_by_name_runs() -> None:
    with xent.backend("reference"):
        choice = xent.choices(LOGITS)
        assert (choice.chosen, choice.requested) == ("reference", "reference")
        torch.testing.assert_close(xent.cross_entropy(LOGITS, TARGET), torch.tensor(4.0).log())


@pytest.mark.parametrize("name", MISSING)
def test_a_backend_that_is_not_here_raises(name: str) -> None:
    with pytest.raises(BackendError, match=f"no {name} column"), xent.backend(name):
        pass


def test_an_unknown_backend_raises() -> None:
    with pytest.raises(OptionError, match=r"'cuda'.*one of 'auto'"), xent.backend("cuda"):
        pass
    with pytest.raises(OptionError, match="operation 'mse'"):
        xent.choices(operation="mse")


def test_blocks_nest_and_end_with_an_exception() -> None:
    with xent.backend("reference"):
        with pytest.raises(ZeroDivisionError), xent.backend("auto"):
            raise ZeroDivisionError
        with xent.backend("auto"):
            assert xent.choices().requested == "auto"
        assert xent.choices().requested == "reference"
    assert xent.choices().requested == "auto"


def test_a_request_belongs_to_its_thread() -> None:
    seen: list[str] = []
    with xent.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(xent.choices().requested))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def test_a_request_of_another_thread_leaves_few_logits_on_the_kernel_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    loss_module = importlib.import_module("xent.functional._cross_entropy")
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(loss_module, "_torch_kernel", lambda *given: calls.append(given[0]) or torch.zeros(()))
    thread = threading.Thread(target=lambda: xent.cross_entropy(LOGITS, TARGET))
    with xent.backend("reference"):
        xent.cross_entropy(LOGITS, TARGET)
        assert not calls
        thread.start()
        thread.join()
    assert len(calls) == 1
    xent.cross_entropy(LOGITS, TARGET)
    assert len(calls) == 2


def test_a_refusing_backend_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a future column does: refuse a call in words; by name that is an error, automatically the next one runs."""

    class Column:
        @staticmethod
        def refusal(operation: str, input: torch.Tensor, *others: torch.Tensor | None) -> str | None:
            return f"no {operation} for {input.dtype}"

    monkeypatch.setitem(_COLUMNS, "native", Column)
    choice = xent.choices(LOGITS, label_smoothing=0.1)
    assert choice.rejected["native"] == "no cross_entropy for torch.float32"
    assert choice.chosen == "reference"
    with xent.backend("native"), pytest.raises(BackendError, match=r"no cross_entropy for torch\.float32"):
        xent.cross_entropy(LOGITS, TARGET)
