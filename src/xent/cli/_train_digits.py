"""`xent train digits`: options in, a summary out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._training_command import Place, TrainingCommand, typed_options
from xent.recipes.digits_config import DEFAULT_LR, DigitsConfig, Optimizer

if TYPE_CHECKING:
    from rich.console import Console

    from xent.inspection.watching._watch import Watching
    from xent.recipes._display import Display, Metrics
    from xent.recipes._run_directory import RunDirectory
    from xent.recipes._runs import Recipe
    from xent.recipes.digits import DigitsLearner

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent train digits\n\n"
    "  xent train digits --data DIR --optimizer adam --out runs/mnist\n\n"
    "  xent train digits --resume runs/mnist"
)
_ABOUT_THE_COMMAND = ("out", "resume", "as_json", "watch")  # the other options are the run's, kept in its config.json
_DEFAULT = DigitsConfig()


def digits(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="MNIST IDX files, gzipped or not. [dim]default: scikit-learn's digits[/dim]"),
    ] = None,
    hidden: Annotated[int, typer.Option(metavar="N", help="Units of the hidden layer.")] = _DEFAULT.hidden,
    optimizer: Annotated[Optimizer, typer.Option(help="What moves the weights.")] = _DEFAULT.optimizer,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=f"Learning rate. [dim]default: {DEFAULT_LR['sgd']} sgd, {DEFAULT_LR['adam']} adam[/dim]"
        ),
    ] = _DEFAULT.lr,
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the training rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Rows per step.")] = _DEFAULT.batch_size,
    seed: Annotated[int, typer.Option(metavar="N", help="Fixes split, first weights and order.")] = _DEFAULT.seed,
    label_smoothing: Annotated[
        float, typer.Option(metavar="X", help="Share of the target spread over all classes.")
    ] = _DEFAULT.label_smoothing,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The new run's directory. [dim]default: runs/digits-N[/dim]")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    watch: Annotated[bool, typer.Option(help="Write records.jsonl and, at the end, report.html.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, progress to stderr.")] = False,
) -> int:
    """Train a perceptron to read handwritten digits.

    The loss is shown in nats and bits beside its landmarks: ln 10 is guessing, 0 is certainty. The run is written to a
    directory, and can go on after any interruption with the same result to the last bit.
    """
    return DigitsCommand().run(typed_options(context, _ABOUT_THE_COMMAND), Place(out, resume, as_json, watch))


class DigitsCommand(TrainingCommand):
    """What is the digits recipe's own."""

    def config(self, typed: dict[str, Any]) -> DigitsConfig:
        """The options of a new run."""
        return DigitsConfig(**typed)

    def recipe(self) -> Recipe:
        """How its runs begin and go on."""
        from xent.recipes.digits_runs import RECIPE

        return RECIPE

    def opening(self, learner: DigitsLearner) -> list[str]:
        """Model, data, rows."""
        config, data = learner.config, learner.data
        layers = f"{data.num_features} → {config.hidden} → {learner.landmarks.num_classes}"
        smoothing = f", label smoothing {config.label_smoothing:g}" if config.label_smoothing else ""
        return [
            f"digits     {layers}, {config.optimizer}, lr {config.learning_rate:g}, {config.batch_size} rows a step, "
            f"seed {config.seed}{smoothing}",
            f"data       {data.source}",
            f"rows       {len(data.train):,} to train on, {len(data.validation):,} to validate on",
        ]

    def measure(self, learner: DigitsLearner) -> dict[str, Any]:
        """Metrics before the first step."""
        from xent.recipes import digits

        return digits.measure(learner)

    def display(self, console: Console, learner: DigitsLearner, latest: Metrics) -> Display:
        """Loss, bits and accuracy."""
        from xent.recipes._display import Display

        return Display(console, learner.landmarks, learner.config.epochs, latest)

    def train(self, learner: DigitsLearner, run: RunDirectory, display: Display) -> None:
        """Train up to the last epoch."""
        from xent.recipes import digits

        digits.train(learner, run, display)

    def look(self, learner: DigitsLearner, watching: Watching) -> None:
        """The validation rows."""
        import torch

        rows = learner.data.validation
        with torch.no_grad():
            watching.rows("validation", learner.model(rows.features), rows.labels, rows.features)
