"""What is shown while a run goes on: a bar on a terminal, and each contest once it is over."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from xent.bench.questions import Case
from xent.bench.runner import Run
from xent.bench.table import contest_table


class Display:
    """A `Watcher` on a Rich console; a context manager around the run."""

    def __init__(self, console: Console, labels: dict[str, str]) -> None:
        self._console, self._labels = console, labels
        live = console.is_interactive and console.file.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.fields[what]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not live)
        self._task = self._bar.add_task("", total=1.0, what="")

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def doing(self, case: Case, index: int, total: int, what: str, share: float) -> None:
        """Move the bar."""
        del case
        self._bar.update(
            self._task, description=f"contest {index + 1} of {total}", completed=index + share, total=total, what=what
        )

    def done(self, contest: dict[str, Any]) -> None:
        """Print the contest."""
        self._console.print(contest_table(contest, self._labels))


def opening(run: Run) -> list[str]:
    """What is asked, where, and who is not here."""
    machine = run.results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"question   {run.question.title}; {len(run.cases)} contests",
        f"machine    {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']} GiB, huge pages: {machine['transparent_huge_pages']}",
        f"           {' '.join(machine['instruction_sets'])}",
        f"versions   {versions}",
        *(f"not here   {run.question.labels[name]}: {reason}" for name, reason in run.results["absent"].items()),
        f"speed      {run.question.labels[run.question.baseline]} is 1×; medians, contestants alternate",
        "",
    ]
    return lines
