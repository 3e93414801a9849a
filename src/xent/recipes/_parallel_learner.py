"""A learner that one process trains, or many together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xent.recipes._checkpoint import Checkpoint, Parts
from xent.recipes._learner import DataT, Learner, ModelT, OptionsT
from xent.recipes._parallel_model import ParallelModel
from xent.recipes._pieces import Piece, piece_of
from xent.recipes._training_state import GENERATOR
from xent.recipes._workers import ALONE, Workers


@dataclass
class ParallelLearner(Learner[OptionsT, DataT, ModelT]):
    """A learner whose optimizer is Adam.

    Attributes:
        parallel: the model over many processes; None of one.
    """

    parallel: ParallelModel | None = None

    @property
    def workers(self) -> Workers:
        """The processes that train it."""
        return ALONE if self.parallel is None else self.parallel.workers

    def join(self, workers: Workers) -> None:
        """Become one of many processes that train the model."""
        if workers.is_alone:
            return
        moments = self.optimizer.state_dict()["state"]
        self.parallel = ParallelModel(self.model, workers)
        # The parameters may be others now.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.optimizer.defaults["lr"], fused=True)
        self.parallel.restore_moments(self.optimizer, moments)

    def save(self, run: Any, metrics_bytes: int) -> None:
        """Write weights and checkpoint to the run; of many processes each writes its part.

        Raises:
            RunError: one can't be written; earlier checkpoints are intact.
        """
        if self.parallel is None:
            super().save(run, metrics_bytes)
        else:
            progress = Checkpoint(self.epoch, metrics_bytes, self.config.fingerprint(self.data.sha256), {})
            run.save_parts(progress, self._pieces(self.parallel, self.generator.get_state()))

    def load(self, run: Path, parts: Parts) -> None:
        """Go where a checkpoint in parts stands, whatever number of processes wrote it.

        Raises:
            RunError: a part is missing, damaged, or of another model.
        """
        from xent.recipes._checkpoint_parts import read_parts

        if self.parallel is None:
            raise RuntimeError("one process reads whole tensors")
        generator = self.generator.get_state()
        _begin_moments(self.optimizer)
        read_parts(run / parts.directory, parts, self._pieces(self.parallel, generator))
        self.generator.set_state(generator)

    def _pieces(self, parallel: ParallelModel, generator: torch.Tensor) -> Mapping[str, Piece]:
        return {**parallel.pieces(self.optimizer), GENERATOR: piece_of(generator)}


def _begin_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer the state that it has after a first step, to be read into; no weight moves."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
