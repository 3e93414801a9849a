"""Beginning and resuming a run with many processes: rank 0 has the directory, the others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xent.errors import OptionError, XentError
from xent.recipes._checkpoint import Checkpoint
from xent.recipes._run_directory import CONFIG, RunDirectory
from xent.recipes._runs import Recipe
from xent.recipes._training_state import load_state_tensors, state_tensors
from xent.recipes._workers import Workers, restarted


class FollowedRun:
    """The run of rank 0, as another rank sees it: it writes nothing."""

    def __init__(self, path: Path, config: dict[str, Any], latest: dict[str, Any]) -> None:
        self.path, self.config, self._latest = path, config, latest

    @property
    def resume_command(self) -> str:
        """As rank 0 says it."""
        return f"xent train {self.config['recipe']} --resume {self.path}"

    def last_metrics(self) -> dict[str, Any]:
        """The last line of metrics.jsonl."""
        return self._latest

    def append_metrics(self, record: dict[str, Any]) -> int:
        """Rank 0 does."""
        return 0

    def save(self, checkpoint: Checkpoint, model: dict[str, Any]) -> None:
        """Rank 0 does."""

    def close(self) -> None:
        """Nothing is locked."""


def open_together(
    workers: Workers, recipe: Recipe, config: Any, out: Path | None, resume: Path | None, changes: dict[str, Any]
) -> tuple[Any, Any]:
    """The learner, the same on every rank, and its run.

    Raises:
        XentError: on rank 0, as `Recipe.begin` and `Recipe.resume` raise it.
        SystemExit: on the other ranks, in silence.
    """
    if restarted() and not resume:
        resume = _begun(out)
    if workers.is_alone:
        return recipe.resume(resume, changes) if resume else recipe.begin(config, out)
    if not workers.is_first:
        return _follow(workers, recipe)
    try:
        learner, run = recipe.resume(resume, changes) if resume else recipe.begin(config, out)
    except XentError:
        workers.told(None)
        raise
    tensors = state_tensors(learner.model, learner.optimizer, learner.generator)
    latest = run.last_metrics() if learner.epoch else {}
    workers.told((str(run.path), learner.config, tensors, learner.epoch, latest))
    return learner, run


def _follow(workers: Workers, recipe: Recipe) -> tuple[Any, Any]:
    told = workers.told(None)
    if told is None:
        raise SystemExit(1)  # rank 0 says why
    path, config, tensors, epoch, latest = told
    seen = RunDirectory.reading(Path(path), recipe.name)
    learner = recipe.build(config, seen)
    load_state_tensors(tensors, learner.model, learner.optimizer, learner.generator)
    learner.epoch = epoch
    return learner, FollowedRun(Path(path), seen.config, latest)


def _begun(out: Path | None) -> Path | None:
    """The run to go on with after a restart by torchrun."""
    if out is None:
        raise OptionError(
            "torchrun started this run again and --out is not given",
            "processes that start anew find their run by its name",
            "pass --out DIR with --max-restarts",
        )
    return out if (out / CONFIG).exists() else None
