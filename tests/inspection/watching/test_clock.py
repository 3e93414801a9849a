"""Whose time it was."""

from __future__ import annotations

import json
import time

import torch

import xent
from xent.inspection.watching._clock import Clock
from xent.inspection.watching._program_watching import ProgramWatching


def test_what_ends_with_an_event_is_its_own() -> None:
    clock = Clock(_mark=7.0)
    clock.until(107.0, "data")
    clock.until(110.0, "loss")
    assert (clock.seconds["data"], clock.seconds["loss"], clock.total) == (100.0, 3.0, 103.0)


def test_the_start_of_a_program_is_no_part_of_its_first_step(tmp_path, monkeypatch) -> None:
    """The imports and the data of a program took 1000 s of a clock that is put forward."""
    watching = ProgramWatching(tmp_path / "run", None, {"doctor": False})
    with watching:
        real = time.perf_counter
        monkeypatch.setattr(time, "perf_counter", lambda: real() + 1000)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.nn.functional.cross_entropy(model(torch.ones(4, 3)), torch.tensor([0, 1, 0, 1])).backward()
        seconds = watching._recording._clock.total
        optimizer.step()
    assert seconds < 1000
    assert watching.step == 1


def test_an_evaluation_is_no_part_of_the_next_step(tmp_path, monkeypatch) -> None:
    """It took 1000 s of the same clock."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    real = time.perf_counter
    with xent.watch(model, optimizer, tmp_path / "run", every=1, doctor=False) as watching:
        for number in range(2):
            torch.nn.functional.cross_entropy(model(torch.ones(4, 3)), torch.tensor([0, 1, 0, 1])).backward()
            optimizer.step()
            if not number:
                monkeypatch.setattr(time, "perf_counter", lambda: real() + 1000)
                watching.evaluation("validation", loss=1.0)
    steps = [one for one in map(json.loads, watching.path.read_text().splitlines()) if one["kind"] == "step"]
    assert len(steps) == 2
    assert sum(steps[1]["seconds"].values()) < 1000
