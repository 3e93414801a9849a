"""What every recipe trains: a model on its data, and all that moves while it learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from xent.errors import RunError
from xent.recipes._checkpoint import Checkpoint
from xent.recipes._run_directory import PARTS, RunDirectory
from xent.recipes._run_options import RunOptions
from xent.recipes._training_state import state_tensors


class Data(Protocol):
    """What a run says about its data."""

    @property
    def source(self) -> str:
        """Where it came from, in words."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of what was read."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """What config.json says about it: at least source and sha256."""
        ...


OptionsT = TypeVar("OptionsT", bound=RunOptions)
DataT = TypeVar("DataT", bound=Data)
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass
class Learner(Generic[OptionsT, DataT, ModelT]):
    """A model on its data, and all that moves while it learns.

    Attributes:
        config: the options.
        data: to train and to validate on.
        generator: draws what is random in the training.
        model: what learns.
        optimizer: moves its weights.
        epoch: whole epochs done.
    """

    config: OptionsT
    data: DataT
    generator: torch.Generator
    model: ModelT
    optimizer: torch.optim.Optimizer
    epoch: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps between two lines of metrics.jsonl."""
        raise NotImplementedError

    def names(self) -> dict[str, Any]:
        """How its classes are called: class_names or decode, as `xent.watch` takes them."""
        return {}

    def files(self) -> dict[str, bytes]:
        """Files that a new run begins with, besides those that every run has."""
        return {}

    def save(self, run: RunDirectory, metrics_bytes: int) -> None:
        """Write weights and checkpoint to the run.

        Raises:
            RunError: one can't be written; earlier checkpoints are intact.
        """
        run.save(self.checkpoint(metrics_bytes), self.model.state_dict())

    def checkpoint(self, metrics_bytes: int) -> Checkpoint:
        """Where it stands, with the length of metrics.jsonl that belongs to it."""
        fingerprint = self.config.fingerprint(self.data.sha256)
        return Checkpoint(
            self.epoch, metrics_bytes, fingerprint, state_tensors(self.model, self.optimizer, self.generator)
        )


def finish_epoch(learner: Learner, run: RunDirectory, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write an epoch with the metrics measured after it to the run; return them as its line in metrics.jsonl.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
    """
    if not all(math.isfinite(metrics[part]["loss"]) for part in PARTS):
        raise RunError(
            f"the loss is {metrics['train']['loss']} after epoch {learner.epoch + 1}",
            "it must be finite",
            f"start a new run with an --lr below {run.config['options']['lr']:g}",
        )
    learner.epoch += 1
    record = {"epoch": learner.epoch, **metrics}
    metrics_bytes = run.append_metrics(record)
    learner.save(run, metrics_bytes)
    return record
