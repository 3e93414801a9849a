"""Beginning a run of any recipe, and going on with one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xent
from xent.errors import OptionError, RunError
from xent.recipes._checkpoint import Checkpoint
from xent.recipes._learner import Learner
from xent.recipes._part_files import whole_tensors
from xent.recipes._run_directory import FORMAT, RunDirectory, refuse_existing
from xent.recipes._run_options import FREE_ON_RESUME
from xent.recipes._training_state import load_state_tensors


@dataclass(frozen=True)
class Recipe:
    """What a recipe gives to begin its runs and to go on with them.

    Attributes:
        name: as in `xent train NAME`.
        options: the class of its options, a frozen dataclass.
        measures: what each part's metrics have, in every line of metrics.jsonl.
        build: a learner before its first step, from options and the run to go on with (None for a new one).
    """

    name: str
    options: type[Any]
    measures: tuple[str, ...]
    build: Callable[[Any, RunDirectory | None], Any]

    def begin(self, config: Any, out: Path | None) -> tuple[Any, RunDirectory]:
        """A new learner and its new run directory: `out`, or the first free runs/NAME-N.

        Raises:
            OptionError: `out` is taken, or an option does not fit the data.
            DataError: the data is missing or damaged.
            RunError: the run directory can't be written.
        """
        refuse_existing(out)
        learner = self.build(replace(config, data=_absolute(config.data)), None)
        content = {
            "xent_run": FORMAT,
            "recipe": self.name,
            "options": learner.config.to_dict(),
            "data": learner.data.to_dict(),
            "versions": versions(),
        }
        return learner, RunDirectory.create(out, content, learner.checkpoint(metrics_bytes=0), learner.files())

    def resume(self, path: Path, changes: dict[str, Any]) -> tuple[Any, RunDirectory]:
        """The learner of a run directory, as the newest checkpoint left it.

        Args:
            path: the run directory.
            changes: options given anew: `epochs` to train for longer or shorter than planned, `data` if the files
                moved; any other must be what the run began with.

        Raises:
            OptionError: `path` is no run of this recipe, or an option differs from the run's.
            DataError: the data is missing or damaged.
            RunError: a file of the run is damaged, or the data is not what the run began with.
        """
        learner, run, checkpoint = self.opened(path, changes)
        try:
            tensors = whole_tensors(run.path, checkpoint)
            load_state_tensors(tensors, learner.model, learner.optimizer, learner.generator)
            learner.epoch = checkpoint.epoch
            settle(learner, run, learner.model.state_dict())
        except BaseException:
            run.close()
            raise
        return learner, run

    def opened(self, path: Path, changes: dict[str, Any]) -> tuple[Any, RunDirectory, Checkpoint]:
        """The learner of a run directory before its first step, and the checkpoint that it is to go on from.

        Raises:
            OptionError, DataError, RunError: as `resume` raises them.
        """
        run = RunDirectory.open(path, self.name)
        try:
            learner = self.build(self._reconcile(run, changes), run)
            run.check_data(learner.data.source, learner.data.sha256)
            checkpoint = run.newest_checkpoint(self.measures)
            _check_options(learner, run, checkpoint)
        except BaseException:
            run.close()
            raise
        return learner, run, checkpoint

    def trained(self, path: Path) -> Any:
        """The learner of a run with the weights of its last whole epoch, to look at; nothing is written.

        Raises:
            OptionError: `path` is no run of this recipe.
            DataError: the data is missing or damaged.
            RunError: a file of the run is damaged, or the data is not what the run began with.
        """
        run = RunDirectory.reading(path, self.name)
        learner = self.build(self._reconcile(run, {}), run)
        run.check_data(learner.data.source, learner.data.sha256)
        try:
            learner.model.load_state_dict(run.model())
        except RuntimeError as error:
            raise RunError(
                f"{path}/model.safetensors holds another model", "it must be the run's", "restore it"
            ) from error
        return learner

    def _reconcile(self, run: RunDirectory, changes: dict[str, Any]) -> Any:
        try:
            began = self.options(**run.config["options"])
        except (TypeError, OptionError) as error:
            raise RunError(
                f"{run.path}/config.json is damaged ({error})", "it must hold the run's options", "restore it"
            ) from error
        if "data" in changes:
            changes = {**changes, "data": _absolute(changes["data"])}
        for name, value in changes.items():
            if name not in FREE_ON_RESUME and value != getattr(began, name):
                raise OptionError(
                    f"{name} is {value} but {run.path} began with {getattr(began, name)}",
                    "a run keeps its options",
                    f"leave --{name.replace('_', '-')} out, or start a new run",
                )
        return replace(began, **changes)


def settle(learner: Learner, run: RunDirectory, model: dict[str, Tensor] | Iterator[bytes]) -> None:
    """Make the files of a run those of the checkpoint that it goes on from.

    Raises:
        RunError: one can't be written.
    """
    if learner.config.to_dict() != run.config["options"]:
        run.save_config({**run.config, "options": learner.config.to_dict()})
    run.save_model(model)  # a stop may have come between the model and its checkpoint


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


def _check_options(learner: Learner, run: RunDirectory, checkpoint: Checkpoint) -> None:
    if checkpoint.fingerprint != learner.config.fingerprint(learner.data.sha256):
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


def _absolute(data: Any) -> str | list[str] | None:
    if data is None or isinstance(data, (str, Path)):
        return None if data is None else str(Path(data).absolute())  # a resume may come from another directory
    return [str(Path(path).absolute()) for path in data]
