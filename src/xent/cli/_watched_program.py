"""A program that is being watched: from the moment it imports torch until it ends, however it ends."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli._examined_program import _die_of
from xent.cli._program import Ending, Program, run
from xent.cli._torch_arrival import when_torch_arrives

if TYPE_CHECKING:
    from xent.inspection.watching._program_watching import ProgramWatching


@dataclass(frozen=True)
class Choices:
    """What the user asked of the watching."""

    out: Path | None
    every: int | None
    tensorboard: bool
    doctor: bool


@dataclass
class WatchedProgram:
    """One program."""

    choices: Choices
    _watching: ProgramWatching | None = None
    _done: bool = False
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
        self._watching = ProgramWatching(self.choices.out, self.choices.every, {**about, "name": name})
        self._watching.__enter__()

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
            return "xent watch · nothing was recorded: the program did not import torch"
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
