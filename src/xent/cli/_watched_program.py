"""A program that is being watched: from the moment it imports torch until it ends, however it ends."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli._examined_program import _die_of
from xent.cli._program import Ending, Program, run
from xent.cli._torch_arrival import when_torch_arrives
from xent.errors import DependencyError, RunError, XentError

if TYPE_CHECKING:
    from xent.inspection.watching._program_watching import ProgramWatching


@dataclass(frozen=True)
class Choices:
    """What the user asked of the watching."""

    out: Path | None
    every: int | None
    tensorboard: bool
    doctor: bool

    def check(self) -> None:
        """Whether all that is asked of the recording can be had, before the program runs for an hour.

        Raises:
            RunError: the directory can't be written.
            DependencyError: there is no tensorboard.
        """
        place = (self.out or Path("runs")).absolute()
        nearest = next(each for each in (place, *place.parents) if each.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            why = "a file is in its place" if not nearest.is_dir() else "permission denied"
            raise RunError(
                f"{place} can't be written ({why})", "a run needs a directory for its records", "pass another --out"
            )
        if self.tensorboard and find_spec("tensorboard") is None:
            raise DependencyError(
                "tensorboard is not installed", "--tensorboard writes with it", "pip install tensorboard"
            )


@dataclass
class WatchedProgram:
    """One program."""

    choices: Choices
    _watching: ProgramWatching | None = None
    _done: bool = False
    _why_not: str = "the program did not import torch"
    _pid: int = field(default_factory=os.getpid)

    def run(self, program: Program) -> int:
        """Run the program, say where its records are; its status."""
        self._name = _name_of(program)
        when_torch_arrives(self._begin)
        self._end_on_termination()
        ending = run(program)
        if os.getpid() != self._pid:  # a forked child that came back here
            raise SystemExit(ending.status)
        self.conclude(*_words(ending))
        if ending.interrupted:
            _die_of(signal.SIGINT)
        return ending.status

    def _begin(self) -> None:
        from xent.inspection.watching._program_watching import ProgramWatching

        about = {"tensorboard": self.choices.tensorboard, "doctor": self.choices.doctor}
        name = "program" if self._name in ("-", "__main__") else self._name
        watching = ProgramWatching(self.choices.out, self.choices.every, {**about, "name": name})
        try:
            watching.__enter__()
        except XentError as error:  # it would come out of the program's own `import torch`
            print(f"xent watch: nothing is recorded: {error}", file=sys.stderr)
            self._why_not = "said above"
        else:
            self._watching = watching

    def conclude(self, status: str, error: str | None) -> None:
        """End the records and say where they are, once."""
        if self._done:
            return
        self._done = True
        if self._watching is not None:
            self._watching.end(status, error)
        stream = sys.__stderr__
        if stream is None or stream.closed:
            return
        with suppress(OSError, ValueError):  # nobody reads it
            try:
                print(f"\n{self._said()}", file=stream, flush=True)
            except RuntimeError:  # the signal came while the program was writing there itself
                with os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors=stream.errors) as again:
                    print(f"\n{self._said()}", file=again)

    def _said(self) -> str:
        watching = self._watching
        if watching is None or watching.path is None:
            return f"xent watch · nothing was recorded: {self._why_not}"
        place = watching.path.parent
        if not watching.step:
            return f"xent watch · no optimizer stepped; {watching.path} says only that"
        return f"xent watch · {watching.step:,} steps in {watching.path} · the page: xent report {place}"

    def _end_on_termination(self) -> None:
        """SIGTERM ends a program at once; with a last record in between."""
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            return

        def terminated(number: int, frame: Any) -> None:
            del frame
            if os.getpid() == self._pid:
                self.conclude("interrupted", "SIGTERM")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, terminated)


def _name_of(program: Program) -> str:
    return Path(program.script).stem if program.script else (program.module or "watch").rpartition(".")[2]


def _words(ending: Ending) -> tuple[str, str | None]:
    if ending.interrupted:
        return "interrupted", None
    if not ending.status:
        return "done", None
    return "failed", ending.error or f"exit status {ending.status}"
