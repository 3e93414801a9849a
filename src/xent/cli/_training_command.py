"""What the commands of all recipes share: begin or resume, train, show, say where the run is; Ctrl-C at any moment."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xent.cli._interrupts import Stopped, interrupts_held
from xent.errors import OptionError, XentError

if TYPE_CHECKING:
    from rich.console import Console

    from xent.inspection.watching._watch import Watching
    from xent.recipes._display import Display, Metrics
    from xent.recipes._learner import Learner
    from xent.recipes._run_directory import RunDirectory
    from xent.recipes._runs import Recipe

PAGE = "report.html"


@dataclass(frozen=True)
class Place:
    """What is asked of the command itself, not of the run: where, from where, and how to tell."""

    out: Path | None
    resume: Path | None
    as_json: bool
    watch: bool = False

    def __post_init__(self) -> None:
        if self.out and self.resume:
            raise OptionError(
                f"out is {self.out} and resume is {self.resume}", "a run goes on where it is", "leave --out out"
            )


class TrainingCommand(ABC):
    """`xent train RECIPE`; a recipe says what is its own."""

    @abstractmethod
    def config(self, typed: dict[str, Any]) -> Any:
        """The options of a new run; loads no torch.

        Raises:
            OptionError: one is outside its range.
        """

    @abstractmethod
    def recipe(self) -> Recipe:
        """How its runs begin and go on."""

    @abstractmethod
    def opening(self, learner: Any) -> list[str]:
        """What is said before the training."""

    @abstractmethod
    def measure(self, learner: Any) -> dict[str, Any]:
        """Metrics before the first step."""

    @abstractmethod
    def display(self, console: Console, learner: Any, latest: Metrics) -> Display:
        """What shows the training."""

    @abstractmethod
    def train(self, learner: Any, run: RunDirectory, display: Display) -> None:
        """Train up to the last epoch."""

    def show(self, learner: Any, console: Console) -> dict[str, Any]:
        """Show what the learner can do now; return it for the summary."""
        return {}

    def reports(self) -> bool:
        """Whether this process is the one that reports."""
        return True

    def close(self) -> None:
        """Leave other processes, if there are any."""
        return

    def run(self, typed: dict[str, Any], place: Place) -> int:
        """Do what was asked; return the exit status.

        Raises:
            Stopped: Ctrl-C, once there was a run.
            KeyboardInterrupt: Ctrl-C, before that.
        """
        began_at = time.monotonic()
        run = None
        try:
            with interrupts_held():  # an import or a new directory half done helps nobody
                learner, run = self._open(typed, place)
            first_epoch = learner.epoch
            opening = self._opening(learner, run, resumed=place.resume is not None or learner.epoch > 0)
            console = _console(place.as_json, opening, quiet=not self.reports())
            shown = self._train(learner, run, console, watch=place.watch)
            if place.as_json and self.reports():
                timing = {"epochs_trained": learner.epoch - first_epoch, "seconds": _seconds_since(began_at)}
                typer.echo(json.dumps({**_summary(learner, run), **shown, **timing}, indent=2, ensure_ascii=False))
            self.close()
        except KeyboardInterrupt:
            if run is None:
                raise
            raise Stopped(f"go on with {run.resume_command}") from None
        finally:
            if run:
                run.close()
        return 0

    def _open(self, typed: dict[str, Any], place: Place) -> tuple[Any, RunDirectory]:
        if not place.resume:
            config = self.config(typed)  # checked before the seconds that torch takes to load
            return self.recipe().begin(config, place.out)
        from xent.recipes._runs import version_notes

        learner, run = self.recipe().resume(place.resume, typed)
        for note in version_notes(run):
            typer.echo(f"xent: note: {note}", err=True)
        return learner, run

    def _opening(self, learner: Learner, run: RunDirectory, *, resumed: bool) -> list[str]:
        lines = [*self.opening(learner), f"run        {run.path}"]
        epochs = learner.config.epochs
        if learner.epoch >= epochs:
            lines.append(f"finished   all {learner.epoch} epochs were trained before")
        elif resumed:
            lines.append(f"resumed    after epoch {learner.epoch} of {epochs}")
        return [*lines, ""]

    def _train(self, learner: Any, run: RunDirectory, console: Console, *, watch: bool) -> dict[str, Any]:
        latest = run.last_metrics() if learner.epoch else {"epoch": 0, **self.measure(learner)}
        goes_on = learner.epoch < learner.config.epochs
        with self.display(console, learner, latest) as display:
            if watch and goes_on:
                self._train_watched(learner, run, display)
            else:
                self.train(learner, run, display)
        _print_metrics(console, display)
        shown = self.show(learner, console)
        console.print(f"saved      {run.path}", soft_wrap=True, markup=False)
        console.print(f"go on      {run.resume_command} --epochs {2 * learner.epoch}", soft_wrap=True, markup=False)
        if watch and goes_on and self.reports():
            write_page(run.path, console)
        return shown

    def _train_watched(self, learner: Any, run: RunDirectory, display: Display) -> None:
        from xent.recipes._records import watched, write_metrics

        with watched(learner, run) as watching:
            if self.reports():
                display.also = lambda metrics: write_metrics(watching, learner, metrics)
            self.train(learner, run, display)
            self.look(learner, watching)

    def look(self, learner: Any, watching: Watching) -> None:
        """Write where the loss is at the end of the training, for the page."""
        return


def typed_options(context: typer.Context, about_the_command: tuple[str, ...]) -> dict[str, Any]:
    """The options of the run that were typed, not left at their defaults."""
    return {
        name: value
        for name, value in context.params.items()
        if name not in about_the_command
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    }


def _console(as_json: bool, opening: list[str], *, quiet: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False, quiet=quiet)
    for line in opening:
        console.print(line, soft_wrap=True, markup=False)
    return console


def write_page(path: Path, console: Console) -> None:
    """Write the page of a run and say where it is, or why there is none."""
    from importlib.util import find_spec

    if find_spec("xent.report.run_page") is None:
        return  # this build of xent has records and no page yet
    from xent.report import run_page  # pyright: ignore[reportAttributeAccessIssue]

    try:
        run_page.write_report([path], path / PAGE)
    except (XentError, OSError) as error:
        console.print(f"report     not written: {error}", soft_wrap=True, markup=False)
        return
    console.print(f"report     {path / PAGE}", soft_wrap=True, markup=False)


def _print_metrics(console: Console, display: Display) -> None:
    from xent.recipes._display import metrics_table, ruler

    console.print()
    console.print(metrics_table(display.latest, display.landmarks))
    console.print()
    console.print(ruler(display.latest, display.landmarks, min(console.width, 80)))
    console.print()


def _summary(learner: Any, run: RunDirectory) -> dict[str, Any]:
    from xent.recipes._landmarks import perplexity

    metrics = run.last_metrics()
    for part in ("train", "validation"):
        value = perplexity(metrics[part]["loss"])
        metrics[part]["perplexity"] = value if math.isfinite(value) else None  # JSON has no infinity
    return {
        "recipe": run.config["recipe"],
        "run": str(run.path),
        **metrics,
        "landmarks": learner.landmarks.to_dict(),
        "options": run.config["options"],
        "data": run.config["data"],
        "resume": run.resume_command,
    }


def _seconds_since(began_at: float) -> float:
    return round(time.monotonic() - began_at, 3)
