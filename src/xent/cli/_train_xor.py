"""`xent train xor`: options in; a summary, and a lesson, out."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._training_command import Place, TrainingCommand, typed_options
from xent.recipes.xor_config import XorConfig

if TYPE_CHECKING:
    from rich.console import Console

    from xent.inspection.watching._watch import Watching
    from xent.recipes._display import Display, Metrics
    from xent.recipes._run_directory import RunDirectory
    from xent.recipes._runs import Recipe
    from xent.recipes.xor import XorLearner

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent train xor\n\n"
    "  xent train xor --sigmoid-before-loss\n\n"
    "  xent train xor --hidden 2 --seed 3 --epochs 40"
)
_ABOUT_THE_COMMAND = ("out", "resume", "as_json", "watch")
_DEFAULT = XorConfig()


def xor(
    context: typer.Context,
    hidden: Annotated[int, typer.Option(metavar="N", help="Units of the hidden layer.")] = _DEFAULT.hidden,
    sigmoid_before_loss: Annotated[
        bool, typer.Option("--sigmoid-before-loss", help="Make the mistake, and see it beside the right way.")
    ] = False,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of Adam.")] = _DEFAULT.lr,
    epochs: Annotated[int, typer.Option(metavar="N", help="Stretches of --steps, each measured.")] = _DEFAULT.epochs,
    steps: Annotated[int, typer.Option(metavar="N", help="Steps of an epoch, on all four corners.")] = _DEFAULT.steps,
    seed: Annotated[int, typer.Option(metavar="N", help="Fixes the first weights.")] = _DEFAULT.seed,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The new run's directory. [dim]default: runs/xor-N[/dim]")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    watch: Annotated[bool, typer.Option(help="Write records.jsonl and, at the end, report.html.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, progress to stderr.")] = False,
) -> int:
    """Train a perceptron to compute XOR, from logits.

    With --sigmoid-before-loss a sigmoid comes before a loss that applies one itself: the loss cannot fall below 0.5032,
    and a certain mistake has almost no gradient. The numbers of both ways are shown side by side.
    """
    return XorCommand().run(typed_options(context, _ABOUT_THE_COMMAND), Place(out, resume, as_json, watch))


class XorCommand(TrainingCommand):
    """What is the xor recipe's own."""

    def config(self, typed: dict[str, Any]) -> XorConfig:
        """The options of a new run."""
        return XorConfig(**typed)

    def recipe(self) -> Recipe:
        """How its runs begin and go on."""
        from xent.recipes.xor_runs import RECIPE

        return RECIPE

    def opening(self, learner: XorLearner) -> list[str]:
        """Model and data."""
        config = learner.config
        loss = "BCEWithLogitsLoss(sigmoid(logits))" if config.sigmoid_before_loss else "BCEWithLogitsLoss(logits)"
        return [
            f"xor        2 → {config.hidden} → 1, tanh, {loss}, adam, lr {config.lr:g}, {config.steps} steps an epoch, "
            f"seed {config.seed}",
            f"data       {learner.data.source}",
        ]

    def measure(self, learner: XorLearner) -> dict[str, Any]:
        """Metrics before the first step."""
        from xent.recipes import xor

        return xor.measure(learner)

    def display(self, console: Console, learner: XorLearner, latest: Metrics) -> Display:
        """Loss, bits and accuracy."""
        from xent.recipes._display import Display

        return Display(console, learner.landmarks, learner.config.epochs, latest)

    def train(self, learner: XorLearner, run: RunDirectory, display: Display) -> None:
        """Train up to the last epoch."""
        from xent.recipes import xor

        xor.train(learner, run, display)
        self.metrics = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]

    def look(self, learner: XorLearner, watching: Watching) -> None:
        """The validation points."""
        from xent.recipes import xor

        points = learner.data.validation
        texts = [f"({x1:.2f}, {x2:.2f})" for x1, x2 in points.features.tolist()]
        watching.rows("validation", xor.two_class_logits(learner, points), points.targets, texts=texts)

    def show(self, learner: XorLearner, console: Console) -> dict[str, Any]:
        """The truth table; after the mistake, both ways side by side and what the doctor says."""
        from xent.recipes import xor

        table = xor.corners(learner)
        _print_rows(console, ("x₁ x₂", "xor", "logit", "p(1)"), [_corner(*corner) for corner in table])
        shown: dict[str, Any] = {"corners": [dict(zip(_CORNER, corner, strict=True)) for corner in table]}
        if learner.config.sigmoid_before_loss:
            lines = xor.compare(learner, self.metrics)
            cells = [(what, _number(without), _number(mistaken)) for what, without, mistaken in lines]
            _print_rows(console, ("", "from logits", "sigmoid before loss"), cells)
            shown["comparison"] = {what: {"logits": a, "sigmoid_before_loss": b} for what, a, b in lines}
            shown["doctor"] = xor.finding(learner)
            for said in shown["doctor"]:
                for number, line in enumerate(wrap(said, min(console.width, 100) - _INDENT)):
                    console.print(("" if number else "doctor").ljust(_INDENT) + line, markup=False)
            console.print()
        return shown


_INDENT = 11
_CORNER = ("x1", "x2", "target", "logit", "p")


def _corner(x1: float, x2: float, target: int, logit: float, p: float) -> tuple[str, ...]:
    return f"{x1:.0f}  {x2:.0f}", str(target), f"{logit:.4f}".replace("-", "−"), f"{p:.4f}"


def _number(value: float | None) -> str:
    return "never" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def _print_rows(console: Console, titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for place, title in enumerate(titles):
        table.add_column(title, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()
