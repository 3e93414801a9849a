"""The validation rows of a digits run: their loss explained, and the digits drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

import xent
from xent.inspection import Explanation
from xent.recipes._threads import torch_threads
from xent.recipes.digits import DigitsLearner
from xent.recipes.digits_runs import trained
from xent.report._digit_drawing import beside, drawn
from xent.report._numbers import number

_EACH = 3  # digits of each kind that are drawn


def of_run(path: Path) -> tuple[Explanation, str]:
    """The explanation of a run's validation loss, and its worst, best and some random digits.

    Raises:
        OptionError: `path` is no digits run.
        DataError, RunError: a file of the run, or its data, is missing or damaged.
    """
    learner = trained(path)
    with torch_threads(1), torch.no_grad():
        logits = learner.model(learner.data.validation.features)
    explanation = xent.explain(logits, learner.data.validation.labels)
    lines: list[str] = []
    for order in ("worst", "best", "random"):
        records = explanation.rows(order, _EACH)
        lines += [f"{order} rows", *beside([_picture(learner, record) for record in records]), ""]
    return explanation, "\n".join(lines).rstrip()


def _picture(learner: DigitsLearner, record: dict[str, Any]) -> list[str]:
    pixels = learner.data.validation.features[record["row"]]
    side = math.isqrt(len(pixels))
    said = f"{record['target']} read as {record['predicted']}"
    image = drawn(pixels.reshape(side, -1).tolist())
    return [*image, f"row {record['row']}: {said}", f"p {number(record['p'])}, {number(record['nats'])} nats"]
