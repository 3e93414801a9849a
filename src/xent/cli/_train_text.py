"""`xent train text`: options in, a summary out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._interrupts import interrupts_let_through
from xent.cli._parallel_command import ParallelCommand, Sharing
from xent.cli._training_command import Place, typed_options
from xent.recipes._run_options import PATIENCE, check_count
from xent.recipes.text_config import DEFAULT_FEATURES, DEFAULT_MIN_COUNT, Pooling, TextConfig

if TYPE_CHECKING:
    from rich.console import Console

    from xent.inspection.watching._watch import Watching
    from xent.recipes._display import Display, Metrics
    from xent.recipes._encoded_texts import Reading
    from xent.recipes._run_directory import RunDirectory
    from xent.recipes._runs import Recipe
    from xent.recipes.text import TextLearner

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent train text\n\n"
    "  xent train text --data reviews.csv --text-column body --label-column stars\n\n"
    "  xent train text --data balita.jsonl --vectors tl_calamancy_md --stop-words stopwords-tl.txt\n\n"
    "  xent train text --resume runs/text-1 --epochs 20"
)
_ABOUT_THE_COMMAND = ("processes", "patience", "out", "resume", "as_json", "watch")
_DEFAULT = TextConfig()
_SHOWN_CHARACTERS = 300  # of a text, in the records


def _count(about: str) -> Any:
    return typer.Option(metavar="N", help=about)


def text(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A .csv, .tsv, .jsonl or .parquet. [dim]default: docstrings of Python's library[/dim]"
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the texts.")] = _DEFAULT.text_column,
    label_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the labels.")] = _DEFAULT.label_column,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and count them.")] = False,
    vectors: Annotated[
        str | None,
        typer.Option(
            metavar="PIPELINE", help="A spaCy pipeline, name or path. [dim]default: embeddings are trained[/dim]"
        ),
    ] = None,
    processes: Annotated[int, _count("Processes of the pipeline's tokenizer.")] = 1,
    stop_words: Annotated[
        str | None, typer.Option(metavar="FILE", help="Words to leave out, one a line, in any case.")
    ] = None,
    features: Annotated[
        int | None, _count(f"Size of a trained embedding. [dim]default: {DEFAULT_FEATURES}[/dim]")
    ] = None,
    min_count: Annotated[
        int | None, _count(f"A rarer word is unknown, without --vectors. [dim]default: {DEFAULT_MIN_COUNT}[/dim]")
    ] = None,
    hidden: Annotated[int, _count("Units of the LSTM.")] = _DEFAULT.hidden,
    pooling: Annotated[
        Pooling, typer.Option(metavar="KIND", help="last state, or attention over all.")
    ] = _DEFAULT.pooling,
    max_tokens: Annotated[int, _count("Of a text, its first ones.")] = _DEFAULT.max_tokens,
    class_weights: Annotated[
        bool, typer.Option("--class-weights", help="Weight classes by their inverse frequency.")
    ] = False,
    validation_share: Annotated[
        float, typer.Option(metavar="X", help="Share of the rows that validates.")
    ] = _DEFAULT.validation_share,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of Adam.")] = _DEFAULT.lr,
    epochs: Annotated[int, _count("Passes over the training rows.")] = _DEFAULT.epochs,
    batch_size: Annotated[int, _count("Rows per step.")] = _DEFAULT.batch_size,
    seed: Annotated[int, _count("Fixes split, first weights and order.")] = _DEFAULT.seed,
    threads: Annotated[int | None, _count("Threads of the run. [dim]default: torch's[/dim]")] = None,
    patience: Annotated[int, _count("Under torchrun: seconds to wait for a process that does not answer.")] = PATIENCE,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The new run's directory. [dim]default: runs/text-N[/dim]")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    watch: Annotated[bool, typer.Option(help="Write records.jsonl and, at the end, report.html.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, progress to stderr.")] = False,
) -> int:
    """Train a classifier of texts: words, vectors, LSTM, loss.

    The loss is shown in nats beside its landmarks: ln C is guessing, the entropy of the label prior is what ignoring
    the text can reach. A file is read once, as a stream, and its words are kept in a cache. The run is written to a
    directory, and can go on after any interruption with the same result to the last bit.
    """
    check_count("processes", processes, 1024)
    typed = typed_options(context, _ABOUT_THE_COMMAND)
    return TextCommand(Sharing(patience=patience), processes).run(typed, Place(out, resume, as_json, watch))


class TextCommand(ParallelCommand):
    """What is the text recipe's own."""

    def __init__(self, sharing: Sharing, processes: int) -> None:
        super().__init__(sharing)
        self.processes = processes

    def config(self, typed: dict[str, Any]) -> TextConfig:
        """The options of a new run."""
        return TextConfig(**typed)

    def recipe(self) -> Recipe:
        """How its runs begin and go on, with a bar while the texts are read."""
        from xent.recipes.text import build
        from xent.recipes.text_runs import RECIPE

        def build_with_a_bar(config: TextConfig, run: RunDirectory | None) -> TextLearner:
            with _reading(self.processes) as reading:
                return build(config, run, reading)

        return replace(RECIPE, build=build_with_a_bar)

    def opening(self, learner: TextLearner) -> list[str]:
        """Model, training, data, rows, words."""
        config, data = learner.config, learner.data
        options = config.to_dict()
        what = f"vectors of {config.vectors}" if config.vectors else f"embeddings of {options['features']} features"
        num_weights = sum(parameter.numel() for parameter in learner.model.parameters())
        weights = ", classes weighted by 1 ÷ frequency" if config.class_weights else ""
        return [
            f"model      {what}, lstm of {config.hidden}, {config.pooling}, {num_weights:,} weights",
            f"training   adam, lr {config.lr:g}, {config.batch_size} rows a step, threads: {config.threads}, "
            f"seed {config.seed}{weights}",
            f"data       {data.source}",
            *_about_rows(learner),
        ]

    def measure(self, learner: TextLearner) -> dict[str, Any]:
        """Metrics before the first step."""
        from xent.recipes import text

        return text.measure(learner)

    def display(self, console: Console, learner: TextLearner, latest: Metrics) -> Display:
        """Loss, accuracy and macro-F1."""
        from xent.recipes._display import Display

        return Display(console, learner.landmarks, learner.config.epochs, latest)

    def train(self, learner: TextLearner, run: RunDirectory, display: Display) -> None:
        """Train up to the last epoch."""
        from xent.recipes import text

        text.train(learner, run, display)

    def look(self, learner: TextLearner, watching: Watching) -> None:
        """The validation rows, with the words of the worst."""
        from xent.recipes import text

        rows, logits = text.validation_logits(learner)
        texts = [learner.data.text(row, _SHOWN_CHARACTERS) for row in rows.tolist()]
        watching.rows("validation", logits, learner.data.labels(rows), texts=texts)


def _about_rows(learner: TextLearner) -> list[str]:
    data, counts = learner.data, learner.data.texts.counts
    unknown_tokens, unknown_texts = data.unknown()
    lack = "without a vector" if learner.config.vectors else f"rarer than {learner.config.to_dict()['min_count']}"
    share = 100 * unknown_tokens / max(counts.tokens, 1)
    lines = [
        f"rows       {len(data.train):,} to train on, {len(data.validation):,} to validate on, "
        f"{len(data.texts.label_names):,} classes",
        f"words      {data.num_words - 2:,} known; {unknown_tokens:,} of {counts.tokens:,} tokens ({share:.1f} %) are "
        f"{lack}",
    ]
    notes = {
        "empty": counts.empty,
        "of unknown words only": unknown_texts,
        f"cut at {learner.config.max_tokens} tokens": counts.cut,
    }
    said = [f"{count:,} {note}" for note, count in notes.items() if count]
    if said:
        lines.append(f"texts      {', '.join(said)}")
    if counts.stop_words:
        lines.append(f"stop words {counts.stop_words:,} tokens left out")
    if counts.skipped:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in counts.skipped.items())
        lines.append(f"left out   {sum(counts.skipped.values()):,} bad rows: {kinds}; first {counts.first_faults[0]}")
    return lines


@contextmanager
def _reading(processes: int) -> Iterator[Reading]:
    """How texts are read: with a bar on a terminal's stderr, and so that Ctrl-C ends it at once."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from xent.recipes._encoded_texts import Reading

    columns = (TextColumn("reading"), BarColumn(), TextColumn("{task.fields[rows]:,} texts"), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.file.isatty())
    task = bar.add_task("reading", total=None, rows=0)  # a pipeline that loads has no share
    with bar:
        yield Reading(
            processes=processes,
            show=lambda rows, share: bar.update(task, total=1.0, completed=share, rows=rows),
            around=interrupts_let_through,
        )
