"""A program of others being written down: nobody names its model and its optimizer, so they are found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from xent.errors import DependencyError
from xent.inspection._hooks import eager
from xent.inspection.watching._found_subjects import FoundSubjects
from xent.inspection.watching._watch import Watching


class ProgramWatching(Watching):
    """As `Watching`, for all threads; the first record is written when an optimizer steps for the first time."""

    def __init__(self, out: str | os.PathLike[str] | None, every: int | None, about: Mapping[str, Any]) -> None:
        self._found = FoundSubjects()
        super().__init__(self._found, out, every, about)
        self._full: set[int] = set()

    def _begin(self, directory: Path) -> None:
        self._directory, self._wrote_run = directory, False
        self._recording.thread = None
        self._board = None
        self._hook = register_optimizer_step_pre_hook(eager(self._steps))
        self._recording.begin(examined=self._about.get("doctor", True))
        self._recording.leave_out_time()  # imports and data

    def _steps(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """A global hook of torch's optimizers."""
        if self._recording.has(optimizer) or id(optimizer) in self._full:
            return
        if not self._found.add(optimizer):
            self._full.add(id(optimizer))
            return
        if not self._wrote_run:
            self._write_run()
        self._recording.adopt(optimizer)

    def _write_run(self) -> None:
        self._wrote_run = True
        try:
            self._board = self._tensorboard(self._directory)
        except DependencyError as error:  # raised here, inside a step of the program, it would end that
            print(f"xent watch: nothing is written for TensorBoard: {error}", file=sys.stderr)
        self._recording.write("run", **self._run(self._directory))

    def end(self, status: str = "done", error: str | None = None) -> None:
        """Write the last record and listen no more."""
        self._hook.remove()
        if not self._wrote_run:
            self._write_run()
        super().end(status, error)
