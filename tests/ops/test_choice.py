"""The choice of a backend: by name it runs or raises, automatically it can be explained."""

from __future__ import annotations

import importlib
import json
import threading

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
    bounded = xent.choices(hidden, head, operation="linear_cross_entropy", max_memory=16 << 20)
    assert "classes at a time" in bounded.note


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
