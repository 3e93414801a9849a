"""Beginning a digits run, and going on with one."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import xent
from xent.errors import OptionError, RunError
from xent.recipes._checkpoint import Checkpoint
from xent.recipes._run_directory import FORMAT, RunDirectory, refuse_existing
from xent.recipes._training_state import load_state_tensors
from xent.recipes.digits import Learner, build
from xent.recipes.digits_config import DigitsConfig

RECIPE = "digits"


def begin(config: DigitsConfig, out: Path | None = None) -> tuple[Learner, RunDirectory]:
    """A new learner and its new run directory: `out`, or the first free runs/digits-N.

    Raises:
        OptionError: `out` is taken, or `config.data` is no directory with MNIST files.
        DataError: the data is missing or damaged.
        RunError: the run directory can't be written.
    """
    refuse_existing(out)
    learner = build(replace(config, data=_absolute(config.data)))
    content = {
        "xent_run": FORMAT,
        "recipe": RECIPE,
        "options": learner.config.to_dict(),
        "data": learner.images.to_dict(),
        "versions": versions(),
    }
    return learner, RunDirectory.create(out, content, learner.checkpoint(metrics_bytes=0))


def resume(path: Path, changes: dict[str, Any] | None = None) -> tuple[Learner, RunDirectory]:
    """The learner of a run directory, as the newest checkpoint left it.

    Args:
        path: the run directory.
        changes: options given anew: `epochs` to train for longer or shorter than planned, `data` if the files moved;
            any other must be what the run began with.

    Raises:
        OptionError: `path` is no digits run, or an option differs from the run's.
        DataError: the data is missing or damaged.
        RunError: a file of the run is damaged, or the data is not what the run began with.
    """
    run = RunDirectory.open(path, RECIPE)
    try:
        learner = build(_reconcile(run, changes or {}))
        _check_data(run, learner)
        _restore(learner, run)
    except BaseException:
        run.close()
        raise
    return learner, run


def trained(path: Path) -> Learner:
    """The learner of a run with the weights of its last whole epoch, to look at; nothing is written.

    Raises:
        OptionError: `path` is no digits run.
        DataError: the data is missing or damaged.
        RunError: a file of the run is damaged, or the data is not what the run began with.
    """
    run = RunDirectory.reading(path, RECIPE)
    learner = build(_reconcile(run, {}))
    _check_data(run, learner)
    try:
        learner.model.load_state_dict(run.model())
    except RuntimeError as error:
        raise RunError(f"{path}/model.safetensors holds another model", "it must be the run's", "restore it") from error
    return learner


def versions() -> dict[str, str]:
    """What the last bits of the weights depend on besides options and data."""
    return {"xent": xent.__version__, "torch": str(torch.__version__), "python": platform.python_version()}


def version_notes(run: RunDirectory) -> list[str]:
    """One sentence per version that differs from the one the run began with."""
    began = run.config["versions"]
    return [
        f"the run began with {name} {began.get(name)}, this is {now}: the last bits of its weights may differ"
        for name, now in versions().items()
        if began.get(name) != now
    ]


def _restore(learner: Learner, run: RunDirectory) -> None:
    checkpoint = run.newest_checkpoint()
    _check_options(learner, run, checkpoint)
    load_state_tensors(checkpoint.tensors, learner.model, learner.optimizer, learner.generator)
    learner.epoch = checkpoint.epoch
    if learner.config.to_dict() != run.config["options"]:
        run.save_config({**run.config, "options": learner.config.to_dict()})
    run.save_model(learner.model.state_dict())  # a stop may have come between the model and its checkpoint


def _reconcile(run: RunDirectory, changes: dict[str, Any]) -> DigitsConfig:
    try:
        began = DigitsConfig(**run.config["options"])
    except (TypeError, OptionError) as error:
        raise RunError(
            f"{run.path}/config.json is damaged ({error})", "it must hold the run's options", "restore it"
        ) from error
    if "data" in changes:
        changes = {**changes, "data": _absolute(changes["data"])}
    for name, value in changes.items():
        if name not in ("epochs", "data") and value != getattr(began, name):
            raise OptionError(
                f"{name} is {value} but {run.path} began with {getattr(began, name)}",
                "a run keeps its options",
                f"leave --{name.replace('_', '-')} out, or start a new run",
            )
    return replace(began, **changes)


def _check_data(run: RunDirectory, learner: Learner) -> None:
    if learner.images.sha256 != run.config["data"].get("sha256"):
        raise RunError(
            f"{learner.images.source} is not the data that {run.path} began with (its SHA-256 differs)",
            "a run keeps its data",
            "pass --data with the directory where that data is now, or start a new run",
        )


def _check_options(learner: Learner, run: RunDirectory, checkpoint: Checkpoint) -> None:
    if checkpoint.fingerprint != learner.config.fingerprint(learner.images.sha256):
        raise RunError(
            f"{run.path}/config.json does not belong to {run.path}/checkpoint",
            "both must be of one run, as they were written",
            "restore the file that was changed, or start a new run",
        )
    if learner.config.epochs < checkpoint.epoch:
        raise OptionError(
            f"epochs is {learner.config.epochs} but {run.path} has {checkpoint.epoch} behind it",
            "a run does not go back",
            f"pass --epochs {checkpoint.epoch + 1} or more",
        )


def _absolute(data: str | Path | None) -> str | None:
    return None if data is None else str(Path(data).absolute())  # a resume may come from another directory
