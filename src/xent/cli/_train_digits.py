"""`xent train digits`: options in, a summary out."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._interrupts import Stopped, interrupts_held
from xent.errors import OptionError
from xent.recipes.digits_config import DEFAULT_LR, DigitsConfig, Optimizer

if TYPE_CHECKING:
    from rich.console import Console

    from xent.recipes._run_directory import RunDirectory
    from xent.recipes.digits import Learner

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent train digits\n\n"
    "  xent train digits --data DIR --optimizer adam --out runs/mnist\n\n"
    "  xent train digits --resume runs/mnist"
)
_ABOUT_THE_COMMAND = ("out", "resume", "as_json")  # the other options are the run's, kept in its config.json
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, progress to stderr.")] = False,
) -> int:
    """Train a perceptron to read handwritten digits.

    The loss is shown in nats and bits beside its landmarks: ln 10 is guessing, 0 is certainty. The run is written to a
    directory, and can go on after any interruption with the same result to the last bit.
    """
    if out and resume:
        raise OptionError(f"out is {out} and resume is {resume}", "a run goes on where it is", "leave --out out")
    typed = {name: value for name, value in context.params.items() if _is_typed(context, name)}
    started_at = time.monotonic()
    run = None
    try:
        with interrupts_held():  # an import or a new directory half done helps nobody
            learner, run = _open(typed, out, resume)
        first_epoch = learner.epoch
        _train(learner, run, _console(as_json, _opening(learner, run, resumed=resume is not None)))
        if as_json:
            timing = {"epochs_trained": learner.epoch - first_epoch, "seconds": round(time.monotonic() - started_at, 3)}
            typer.echo(json.dumps({**_summary(learner, run), **timing}, indent=2, ensure_ascii=False))
    except KeyboardInterrupt:
        if run is None:
            raise
        raise Stopped(f"go on with {run.resume_command}") from None
    finally:
        if run:
            run.close()
    return 0


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return name not in _ABOUT_THE_COMMAND and source is not None and source.name == "COMMANDLINE"


def _open(typed: dict[str, Any], out: Path | None, resume: Path | None) -> tuple[Learner, RunDirectory]:
    if not resume:
        config = DigitsConfig(**typed)  # checked before the seconds that torch takes to load
        from xent.recipes import digits_runs

        return digits_runs.begin(config, out)
    from xent.recipes import digits_runs

    learner, run = digits_runs.resume(resume, typed)
    for note in digits_runs.version_notes(run):
        typer.echo(f"xent: note: {note}", err=True)
    return learner, run


def _console(as_json: bool, opening: list[str]) -> Console:
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    for line in opening:
        console.print(line, soft_wrap=True, markup=False)
    return console


def _train(learner: Learner, run: RunDirectory, console: Console) -> None:
    from xent.recipes import digits
    from xent.recipes._display import Display

    latest = run.last_metrics() if learner.epoch else {"epoch": 0, **digits.measure(learner)}
    with Display(console, learner.landmarks, learner.config.epochs, latest) as display:
        digits.train(learner, run, display)
    _print_end(console, display.latest, learner, run)


def _opening(learner: Learner, run: RunDirectory, *, resumed: bool) -> list[str]:
    config, images = learner.config, learner.images
    layers = f"{images.num_features} → {config.hidden} → {learner.landmarks.num_classes}"
    smoothing = f", label smoothing {config.label_smoothing:g}" if config.label_smoothing else ""
    lines = [
        f"digits     {layers}, {config.optimizer}, lr {config.learning_rate:g}, {config.batch_size} rows a step, "
        f"seed {config.seed}{smoothing}",
        f"data       {images.source}",
        f"rows       {len(images.train):,} to train on, {len(images.validation):,} to validate on",
        f"run        {run.path}",
        "",
    ]
    if learner.epoch >= config.epochs:
        lines.insert(-1, f"finished   all {learner.epoch} epochs were trained before")
    elif resumed:
        lines.insert(-1, f"resumed    after epoch {learner.epoch} of {config.epochs}")
    return lines


def _print_end(console: Console, latest: dict[str, Any], learner: Learner, run: RunDirectory) -> None:
    from xent.recipes._display import metrics_table, ruler

    console.print()
    console.print(metrics_table(latest))
    console.print()
    console.print(ruler(latest, learner.landmarks, min(console.width, 80)))
    console.print()
    console.print(f"saved      {run.path}", soft_wrap=True, markup=False)
    console.print(f"go on      {run.resume_command} --epochs {2 * learner.epoch}", soft_wrap=True, markup=False)


def _summary(learner: Learner, run: RunDirectory) -> dict[str, Any]:
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
