"""Scalars for TensorBoard are those of the records."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import xent
from tests.inspection.watching.test_watch import loop, records, small

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # tensorboard and protobuf warn of themselves


def test_scalars_are_those_of_the_records(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run", every=1, tensorboard=True) as watching:
        loop(model, optimizer, x, y, 4)
        watching.evaluation("validation", loss=1.25, count=10)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    steps = records(watching.path, "step")
    found = [(event.step, event.value) for event in events.Scalars("loss/train")]
    assert found == [(step["step"], pytest.approx(step["loss"], rel=1e-6)) for step in steps]  # float32 on disk
    layers = records(watching.path, "layers")
    norms = [event.value for event in events.Scalars("gradient_norm/0")]
    assert norms == pytest.approx([each["layers"][0]["gradient_norm"] for each in layers], rel=1e-6)
    assert [(event.step, event.value) for event in events.Scalars("loss/validation")] == [(4, 1.25)]
