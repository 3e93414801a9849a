"""`xent train RECIPE` on the processes that torchrun started: they begin together, and one says why they end."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from xent.cli._interrupts import INTERRUPTED, Stopped, interrupts_held
from xent.cli._training_command import Place, TrainingCommand
from xent.errors import OptionError
from xent.recipes._run_options import PATIENCE

if TYPE_CHECKING:
    from xent.recipes._workers import ParallelOptions, Workers


@dataclass(frozen=True)
class Sharing:
    """How the processes share the model; checked once torch is loaded, as `ParallelOptions`."""

    shard: bool = False
    vocab_parallel: int = 1
    patience: int = PATIENCE


class ParallelCommand(TrainingCommand):
    """A recipe that one process trains, or many.

    Attributes:
        sharing: how many share the model.
        workers: this process among the others, once they have met.
        opened: the learner and its run, once there is one.
    """

    workers: Workers
    opened: tuple[Any, Any] | None = None

    def __init__(self, sharing: Sharing) -> None:
        self.sharing = sharing

    def run(self, typed: dict[str, Any], place: Place) -> int:
        """Do what was asked, with the others; return the exit status.

        Raises:
            XentError: on one rank, whatever ended them; the others end in silence.
            SystemExit: on those.
            Stopped, KeyboardInterrupt: Ctrl-C.
        """
        self.workers = self._meet(typed, place)
        if self.workers.endings is None:
            return super().run(typed, place)
        from xent.recipes._endings import last_word, terminations_raised

        try:
            with terminations_raised():
                return super().run(typed, place)
        except (Stopped, KeyboardInterrupt):
            if self.workers.endings.claim():
                raise
            raise SystemExit(INTERRUPTED) from None
        except BaseException as error:
            word = last_word(self.workers.endings, error, self._where(), self._go_on())
            if word is error:
                raise
            raise word from error

    def _meet(self, typed: dict[str, Any], place: Place) -> Workers:
        try:
            if not place.resume:
                self.config(typed)  # checked before the seconds that torch takes to load
            with interrupts_held():
                from xent.recipes._workers import start_workers
            return start_workers(self._options())
        except OptionError:
            if os.environ.get("RANK", "0") == "0":
                raise
            raise SystemExit(2) from None  # rank 0 says the same

    def _options(self) -> ParallelOptions:
        from xent.recipes._workers import ParallelOptions

        return ParallelOptions(self.sharing.shard, self.sharing.vocab_parallel, self.sharing.patience)

    def _open(self, typed: dict[str, Any], place: Place) -> tuple[Any, Any]:
        from xent.recipes._runs import version_notes
        from xent.recipes._worker_runs import open_together, restarted

        if self.workers.is_alone and not restarted():
            self.opened = super()._open(typed, place)
            return self.opened
        config = None if place.resume else self.config(typed)
        learner, run = open_together(self.workers, self.recipe(), config, place.out, place.resume, typed)
        self.opened = learner, run
        if self.workers.is_first:
            for note in version_notes(run):
                typer.echo(f"xent: note: {note}", err=True)
        return learner, run

    def reports(self) -> bool:
        """Whether this process is the one that does."""
        return self.workers.is_first

    def close(self) -> None:
        """Leave the other processes."""
        self.workers.close()

    def _where(self) -> str:
        return f"after epoch {self.opened[0].epoch}" if self.opened else "before the training"

    def _go_on(self) -> str:
        if self.opened is None:
            return f"start them again ({' '.join(sys.argv[1:])[:200]})"
        return f"go on under torchrun with {self.opened[1].resume_command}"
