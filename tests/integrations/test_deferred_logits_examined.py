"""The doctor on losses without logits: it sees what a hidden state shows, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
import xent
from tests.inspection.doctor.support import examined
from tests.integrations.tiny_models import tiny, tokens
from xent.integrations.transformers import DeferredLogits, accelerate

PROGRAM = """
import torch
from tests.integrations.tiny_models import tiny, tokens
from xent.integrations.transformers import accelerate

model, inputs = tiny("{kind}"), tokens()
accelerate(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    model(input_ids=inputs["input_ids"], labels={labels}).loss.backward()
    optimizer.step()
"""
SHIFTED = "torch.nn.functional.pad(inputs['labels'], (0, 1), value=-100)[:, 1:]"  # and the model shifts again


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "bart"])
def test_every_check_runs_or_is_silent(kind: str) -> None:
    """A check that fails would raise here. Bart alone does not shift, and could attend to an encoder it has not."""
    report = examined(PROGRAM.format(kind=kind, labels="inputs['labels']"))
    expected = ["labels-not-shifted", "parameter-unreached"] if kind == "bart" else []
    assert [finding.rule for finding in report.findings] == expected, str(report)
    looked = {"labels-not-shifted", "class-index-out-of-range"}
    scaled = kind == "gemma2"  # a cap on the logits: they are no layer's own
    assert looked | (set() if scaled else {"initial-loss-too-high"}) <= {*report.checked}


def test_labels_that_are_shifted_before_the_model_does_it() -> None:
    report = examined(PROGRAM.format(kind="llama", labels=SHIFTED))
    assert [finding.rule for finding in report.findings] == ["labels-shifted-twice"], str(report)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_nothing_changes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, and without the logits."""
    monkeypatch.setattr(DeferredLogits, "tensor", lambda self: pytest.fail("the logits were made"))
    model, inputs = tiny(kind), tokens()
    accelerate(model)
    plain = _gradients(model, inputs)
    with xent.doctor():
        watched = _gradients(model, inputs)
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))


def _gradients(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return [loss.detach(), *(each.grad for each in model.parameters() if each.grad is not None)]


def test_one_loss_is_checked() -> None:
    model, inputs = tiny("llama"), tokens()
    with accelerate(model):
        report = xent.check(model(input_ids=inputs["input_ids"], labels=inputs["input_ids"]).loss)
        explained = xent.explain(model(**inputs).loss)
    assert not report.findings
    assert "labels-not-shifted" in report.checked
    assert explained.checks is not None
    assert "labels-not-shifted" in explained.checks.checked
