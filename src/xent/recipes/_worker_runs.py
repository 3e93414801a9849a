"""Beginning and resuming a run with many processes: rank 0 has the directory, all write their part of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from xent.errors import OptionError
from xent.recipes._checkpoint import Checkpoint, Parts, new_parts_name
from xent.recipes._part_files import merged
from xent.recipes._pieces import Piece
from xent.recipes._run_directory import CONFIG, RunDirectory
from xent.recipes._runs import Recipe, settle
from xent.recipes._training_state import MODEL, load_state_tensors, under
from xent.recipes._workers import Workers


class SharedRun:
    """A run directory that all ranks see and rank 0 writes, but for the parts of checkpoints."""

    def __init__(self, workers: Workers, path: Path, run: RunDirectory, latest: dict[str, Any]) -> None:
        self.workers, self.path, self._run, self._latest = workers, path, run, latest

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self._run.config

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return self._run.resume_command

    def last_metrics(self) -> dict[str, Any]:
        """The last line of metrics.jsonl."""
        return self._latest

    def model(self) -> dict[str, Tensor]:
        """The weights after the last whole epoch, whole on the rank that asks.

        Raises:
            RunError: there are none yet, or the file is damaged.
        """
        return self._run.model()

    def append_metrics(self, record: dict[str, Any]) -> int:
        """Append one line to metrics.jsonl; return the file's new length.

        Raises:
            RunError: on every rank, if it can't be written.
        """
        self._latest = record
        return self.workers.first_does(lambda: self._run.append_metrics(record))

    def save_parts(self, progress: Checkpoint, pieces: Mapping[str, Piece]) -> None:
        """Write every rank's part, then the model, then the checkpoint that names the parts.

        Raises:
            RunError: on every rank, if one can't write; the earlier checkpoint is intact.
        """
        from xent.recipes._checkpoint_parts import write_parts

        name = self.workers.told(new_parts_name(progress.epoch))
        parts = Parts(name, write_parts(self.path / name, pieces))
        self.workers.first_does(lambda: self._run.save(replace(progress, parts=parts), merged(self.path / name, MODEL)))

    def close(self) -> None:
        """Let others write the run."""
        if self.workers.is_first:
            self._run.close()


def open_together(
    workers: Workers, recipe: Recipe, config: Any, out: Path | None, resume: Path | None, changes: dict[str, Any]
) -> tuple[Any, Any]:
    """The learner as one of many, at the same place on every rank, and its run.

    Raises:
        XentError: as `Recipe.begin` and `Recipe.resume` raise it, on every rank.
    """
    if restarted() and not resume:
        resume = _begun(out)
    if workers.is_alone:
        return recipe.resume(resume, changes) if resume else recipe.begin(config, out)
    opened: list[Any] = []

    def open_first() -> tuple[Any, ...]:
        learner, run, checkpoint = recipe.opened(resume, changes) if resume else (*recipe.begin(config, out), None)
        opened.extend((learner, run))
        return str(run.path), learner.config, checkpoint, run.last_metrics() if checkpoint and checkpoint.epoch else {}

    if not workers.is_first:
        workers.meet("opened")
    path, config, checkpoint, latest = workers.first_does(lambda: _and_meet(workers, open_first))
    if not workers.is_first:
        run = RunDirectory.reading(Path(path), recipe.name)
        opened.extend((recipe.build(config, run), run))
    learner, run = opened
    workers.meet("built")
    _join(learner, workers, Path(path), checkpoint)
    if checkpoint:
        workers.first_does(lambda: _settle(learner, run, checkpoint))
    return learner, SharedRun(workers, Path(path), run, latest)


def _and_meet(workers: Workers, action: Any) -> Any:
    try:
        return action()
    finally:
        workers.meet("opened")


def _join(learner: Any, workers: Workers, path: Path, checkpoint: Checkpoint | None) -> None:
    if checkpoint is None:
        learner.join(workers)
        return
    learner.epoch = checkpoint.epoch
    if checkpoint.parts is None:
        load_state_tensors(checkpoint.tensors, learner.model, learner.optimizer, learner.generator)
        learner.join(workers)
    else:
        learner.join(workers)
        learner.load(path, checkpoint.parts)


def _settle(learner: Any, run: RunDirectory, checkpoint: Checkpoint) -> None:
    if checkpoint.parts is None:
        settle(learner, run, under(MODEL, checkpoint.tensors))
    else:
        settle(learner, run, merged(run.path / checkpoint.parts.directory, MODEL))


def restarted() -> bool:
    """Whether torchrun started these processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _begun(out: Path | None) -> Path | None:
    """The run to go on with after a restart by torchrun."""
    if out is None:
        raise OptionError(
            "torchrun started this run again and --out is not given",
            "processes that start anew find their run by its name",
            "pass --out DIR with --max-restarts",
        )
    return out if (out / CONFIG).exists() else None
