"""The records of a recipe's run: `xent.watch` in its directory, with what the recipe measures after each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xent.inspection import watch
from xent.inspection.watching._watch import Watching
from xent.recipes._learner import Learner
from xent.recipes._run_directory import PARTS, RunDirectory


def watched(learner: Learner, run: RunDirectory) -> Watching:
    """A watch over the training of a learner: a new file of records, or that of the run, cut to where it goes on."""
    return watch(
        learner.model,
        learner.optimizer,
        run.path,
        name=run.path.name,
        config={"recipe": run.config["recipe"], **learner.config.to_dict()},
        resume_at=learner.epoch * learner.steps_per_epoch,
        **learner.names(),
    )


def write_metrics(watching: Watching, learner: Any, metrics: Mapping[str, Any]) -> None:
    """What was measured after an epoch, a record for each part of the data."""
    ruler = _ruler(learner.landmarks.to_dict())
    for part in PARTS:
        found = metrics[part]
        watching.evaluation(
            part, loss=found["loss"], count=found.get("rows", found.get("tokens")), accuracy=found.get("accuracy"),
            ruler=ruler, epoch=metrics["epoch"],
        )  # fmt: skip


def _ruler(landmarks: Mapping[str, Any]) -> dict[str, Any]:
    if "unigram" in landmarks:
        return {"floor": 0.0, "prior": landmarks["unigram"]["loss"], "uniform": landmarks["uniform"]["loss"],
                "num_classes": landmarks["num_tokens"]}  # fmt: skip
    return {"floor": 0.0, "prior": landmarks["label_prior"], "uniform": landmarks["guessing"],
            "num_classes": landmarks["num_classes"]}  # fmt: skip
