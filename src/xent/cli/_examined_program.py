"""A program under the doctor: started when it imports torch, reported when it ends, however it ends."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli._interrupts import interrupts_held
from xent.cli._program import Program, run
from xent.cli._torch_arrival import when_torch_arrives
from xent.report._letters import PLAIN

if TYPE_CHECKING:
    from xent.inspection import Report

WITH_FINDINGS = 1
_NO_TORCH = "the program did not import torch"


@dataclass(frozen=True)
class Choices:
    """What the user asked of the doctor."""

    mute: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    json: Path | None = None


@dataclass
class Examination:
    """One program under the doctor."""

    choices: Choices
    _stop: Callable[[], Report] | None = None
    _report: Report | None = None
    _done: bool = False
    _pid: int = field(default_factory=os.getpid)

    def run(self, program: Program) -> int:
        """Run the program and report; its status, or 1 with findings where that is 0."""
        when_torch_arrives(self._begin)
        self._report_on_termination()
        ending = run(program)
        if os.getpid() != self._pid:  # a forked child that came back here: it has nothing to report
            _leave_as(ending.status)
        report = None
        try:
            with interrupts_held():  # a second Ctrl-C would end the report in the middle
                report = self.conclude()
        except KeyboardInterrupt:
            _die_of(signal.SIGINT)
        if ending.interrupted:
            _die_of(signal.SIGINT)
        if ending.status:
            return ending.status
        return 0 if report is None or report.is_clean else WITH_FINDINGS

    def _begin(self) -> None:
        if self._done:  # it is the report that asks for torch
            return
        from xent.inspection.examination._doctor import started

        self._stop = started(self.choices.mute, self.choices.only)

    def conclude(self) -> Report | None:
        """End the session and print its report, once."""
        if self._done:
            return self._report
        self._done = True
        self._report = self._stop() if self._stop is not None else None
        for stream in (sys.stdout, sys.stderr):
            _flushed(stream)
        self._print()
        if self.choices.json is not None:
            self._write_json(self.choices.json)
        return self._report

    def _print(self) -> None:
        stream = sys.__stderr__
        if stream is None or stream.closed:
            return
        with suppress(OSError, ValueError):  # nobody reads it
            try:
                self._print_to(stream)
            except RuntimeError:  # the signal came while the program was writing there itself
                with os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding) as again:
                    self._print_to(again)

    def _print_to(self, stream: Any) -> None:
        with _in_letters_it_has(stream):
            if self._report is None:
                print(f"\nxent doctor · nothing was checked: {_NO_TORCH}", file=stream, flush=True)
            else:
                _show(self._report, stream)

    def _write_json(self, path: Path) -> None:
        report = self._report
        if report is None:
            report = _empty_report(self.choices)
        part = path.with_name(f"{path.name}.part")
        part.write_text(report.to_json() + "\n", encoding="utf-8")
        part.replace(path)

    def _report_on_termination(self) -> None:
        """SIGTERM ends a program at once; with a report in between."""
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            return

        def terminated(number: int, frame: Any) -> None:
            del frame
            if os.getpid() == self._pid:
                self.conclude()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, terminated)


def _show(report: Report, stream: Any) -> None:
    from rich.console import Console

    console = Console(file=stream, highlight=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 80
    console.print()
    console.print(report)
    stream.flush()


@contextmanager
def _in_letters_it_has(stream: Any) -> Iterator[None]:
    """The program's own stderr writes an escape where an ASCII terminal has no such letter."""
    before = stream.errors
    stream.reconfigure(errors=PLAIN)
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def _empty_report(choices: Choices) -> Report:
    from xent.inspection.checks._registry import chosen_rules
    from xent.inspection.examination._finding import Unchecked
    from xent.inspection.examination._report import Report

    report = Report()
    report.unchecked = tuple(Unchecked(rule.slug, _NO_TORCH) for rule in chosen_rules(choices.mute, choices.only))
    report.finished = True
    return report


def _flushed(stream: Any) -> None:
    # None, closed, or without a reader; or the signal that ends the program came while it was writing there itself.
    with suppress(AttributeError, OSError, ValueError, RuntimeError):
        stream.flush()


def _die_of(number: int) -> None:
    """End as a process that the signal ended, after what the program wants done at its end."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        _flushed(stream)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _leave_as(status: int) -> None:
    raise SystemExit(status)
