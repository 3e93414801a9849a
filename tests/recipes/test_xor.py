"""The xor recipe: solved from logits; and what a sigmoid before the loss does to it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from tests.recipes.test_digits import fingerprints
from xent.recipes import xor, xor_runs
from xent.recipes._display import Display
from xent.recipes.xor_config import XorConfig


def finish(learner, run) -> dict:
    try:
        with Display(
            Console(file=io.StringIO()), learner.landmarks, 9, {"epoch": 0, **xor.measure(learner)}
        ) as display:
            xor.train(learner, run, display)
    finally:
        run.close()
    return run.last_metrics()


@pytest.mark.parametrize("seed", range(5))
def test_logits_solve_it(tmp_path: Path, seed: int):
    metrics = finish(*xor_runs.begin(XorConfig(seed=seed), tmp_path / "run"))
    assert metrics["train"]["loss"] < 0.02
    assert metrics["train"]["accuracy"] == 1.0
    assert metrics["validation"]["accuracy"] > 0.95


def test_a_sigmoid_before_the_loss_cannot_get_below_its_floor(tmp_path: Path):
    learner, run = xor_runs.begin(XorConfig(sigmoid_before_loss=True), tmp_path / "run")
    metrics = finish(learner, run)
    assert pytest.approx(0.5 * (math.log(1 + math.exp(-1)) + math.log(2))) == xor.FLOOR
    assert metrics["train"]["loss"] > xor.FLOOR
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    said = {what: (without, mistaken) for what, without, mistaken in xor.compare(learner, records)}
    without, mistaken = said["loss that was minimised"]
    assert without < 0.02 < 0.5 < mistaken
    without, mistaken = said["|∂loss/∂logit| of a wrong logit of −8"]
    p = 1 / (1 + math.exp(8))
    assert without == pytest.approx(1 - p, rel=1e-6)
    assert mistaken == pytest.approx((1 - 1 / (1 + math.exp(-p))) * p * (1 - p), rel=1e-5)
    assert [line for line in xor.finding(learner) if line.startswith("sigmoid-twice")]


def test_nothing_is_found_without_the_mistake():
    assert xor.finding(xor.build(XorConfig())) == []


def test_a_resumed_run_is_the_whole_one(tmp_path: Path):
    finish(*xor_runs.begin(XorConfig(epochs=4), tmp_path / "whole"))
    finish(*xor_runs.begin(XorConfig(epochs=1), tmp_path / "part"))
    finish(*xor_runs.resume(tmp_path / "part", {"epochs": 4}))
    assert fingerprints(tmp_path / "whole") == fingerprints(tmp_path / "part")
