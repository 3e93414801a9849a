"""`xent train language_model`: options in, a summary and a text out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xent.cli._parallel_command import ParallelCommand, Sharing
from xent.cli._training_command import Place, typed_options
from xent.errors import OptionError
from xent.recipes._run_options import PATIENCE
from xent.recipes.language_model_config import (
    DEFAULT_HEADS,
    DEFAULT_LR,
    DEFAULT_MAX_BYTES,
    DEFAULT_VOCABULARY,
    LanguageModelConfig,
    Model,
    SampleOptions,
    Tokens,
)

if TYPE_CHECKING:
    from rich.console import Console

    from xent.recipes._display import Display, Metrics
    from xent.recipes._run_directory import RunDirectory
    from xent.recipes._runs import Recipe
    from xent.recipes.language_model import LanguageLearner

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent train language_model\n\n"
    "  xent train language_model --data book.txt --tokens char --prompt 'It was '\n\n"
    "  xent train language_model --data a.txt b.txt docs/ --tokens bpe\n\n"
    "  xent train language_model --resume runs/language_model-1 --epochs 20"
)
_ABOUT_THE_COMMAND = (
    *("paths", "sample", "prompt", "temperature", "out", "resume", "as_json", "watch"),
    *("shard", "vocab_parallel", "patience"),
)
_DEFAULT, _SAMPLE = LanguageModelConfig(), SampleOptions()


def _count(about: str) -> Any:
    return typer.Option(metavar="N", help=about)


def language_model(
    context: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="More paths, after one of --data.", hidden=True)
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH...", help="Text files, folders. [dim]default: the source of Python's standard library[/dim]"
        ),
    ] = None,
    max_bytes: Annotated[
        int | None, _count(f"Read no more text. [dim]default: all; {DEFAULT_MAX_BYTES:,} of the library[/dim]")
    ] = None,
    tokens: Annotated[
        Tokens, typer.Option(metavar="KIND", help="byte, char or bpe: what a token is.")
    ] = _DEFAULT.tokens,
    vocabulary: Annotated[int | None, _count(f"Tokens of bpe. [dim]default: {DEFAULT_VOCABULARY}[/dim]")] = None,
    validation_share: Annotated[
        float, typer.Option(metavar="X", help="Share of the text, at its end, that validates.")
    ] = _DEFAULT.validation_share,
    max_validation_tokens: Annotated[
        int | None, _count("Measure on no more tokens. [dim]default: the whole validation part[/dim]")
    ] = None,
    model: Annotated[Model, typer.Option(metavar="KIND", help="lstm or transformer.")] = _DEFAULT.model,
    features: Annotated[int, _count("Size of a hidden state.")] = _DEFAULT.features,
    layers: Annotated[int, _count("Layers of the model.")] = _DEFAULT.layers,
    heads: Annotated[
        int | None, _count(f"Attention heads of the transformer. [dim]default: {DEFAULT_HEADS}[/dim]")
    ] = None,
    window: Annotated[int, typer.Option("--context", metavar="N", help="Tokens of a window.")] = _DEFAULT.context,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Highest learning rate. "
            f"[dim]default: {DEFAULT_LR['lstm']} lstm, {DEFAULT_LR['transformer']} transformer[/dim]",
        ),
    ] = None,
    epochs: Annotated[int, _count("Stretches of --steps, each measured and saved.")] = _DEFAULT.epochs,
    steps: Annotated[int, _count("Steps of an epoch.")] = _DEFAULT.steps,
    batch_size: Annotated[int, _count("Windows per step, drawn anywhere in the text.")] = _DEFAULT.batch_size,
    seed: Annotated[int, _count("Fixes first weights, windows and sample.")] = _DEFAULT.seed,
    threads: Annotated[int | None, _count("Threads of the run. [dim]default: torch's[/dim]")] = None,
    sample: Annotated[int, _count("Tokens of the text drawn at the end; 0 for none.")] = _SAMPLE.tokens,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What it goes on from. [dim]default: the first validation text[/dim]"),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="1: as the model predicts; 0: always the most probable.")
    ] = _SAMPLE.temperature,
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: spread all parameters over the processes (FSDP2).")
    ] = False,
    vocab_parallel: Annotated[int, _count("Under torchrun: processes that share the vocabulary.")] = 1,
    patience: Annotated[int, _count("Under torchrun: seconds to wait for a process that does not answer.")] = PATIENCE,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The new run's directory. [dim]default: runs/language_model-N[/dim]"),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
    watch: Annotated[bool, typer.Option(help="Write records.jsonl and, at the end, report.html.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, progress to stderr.")] = False,
) -> int:
    """Train a small language model to predict the next token of a text.

    The loss is shown in nats per token and bits per byte beside its landmarks: ln V is guessing, unigram is what token
    frequencies alone reach. The run is written to a directory, and can go on after any interruption with the same
    result to the last bit. At the end the model writes a text.
    """
    typed = typed_options(context, _ABOUT_THE_COMMAND)
    if "window" in typed:
        typed["context"] = typed.pop("window")  # Typer's own context has the name
    if paths:
        typed["data"] = _with_more(typed.get("data"), paths)
    sharing = Sharing(shard, vocab_parallel, patience)
    command = LanguageModelCommand(sharing, SampleOptions(sample, prompt, temperature))
    return command.run(typed, Place(out, resume, as_json, watch))


def _with_more(data: list[str] | None, paths: list[str]) -> list[str]:
    if data is None:
        raise OptionError(
            f"{paths[0]} stands alone",
            "text files come with --data",
            f"xent train language_model --data {paths[0]}",
        )
    return [*data, *paths]


class LanguageModelCommand(ParallelCommand):
    """What is the language_model recipe's own."""

    def __init__(self, sharing: Sharing, text: SampleOptions) -> None:
        super().__init__(sharing)
        self.text = text

    def config(self, typed: dict[str, Any]) -> LanguageModelConfig:
        """The options of a new run."""
        return LanguageModelConfig(**typed)

    def recipe(self) -> Recipe:
        """How its runs begin and go on; a prompt without tokens is refused before either."""
        from xent.recipes._sampling import encoded_prompt
        from xent.recipes.language_model_runs import RECIPE

        def build(config: LanguageModelConfig, run: RunDirectory | None) -> LanguageLearner:
            learner = RECIPE.build(config, run)
            encoded_prompt(learner, self.text)
            return learner

        return replace(RECIPE, build=build)

    def opening(self, learner: LanguageLearner) -> list[str]:
        """Model, data, tokens."""
        config, data = learner.config, learner.data
        heads = f", {config.heads or DEFAULT_HEADS} heads" if config.model == "transformer" else ""
        num_weights = sum(parameter.numel() for parameter in learner.model.parameters())
        return [
            f"model      {config.model}, {_counted(config.layers, 'layer')} of {config.features} features{heads}, "
            f"{num_weights:,} weights, tied head",
            f"training   adam, lr {config.learning_rate:g}, {config.batch_size} windows of {config.context} tokens "
            f"a step, {_counted(config.steps, 'step')} an epoch, {_counted(config.threads, 'thread')}, "
            f"seed {config.seed}",
            f"data       {data.source}",
            f"tokens     {config.tokens}, {data.num_tokens:,} of them; {len(data.train):,} to train on, "
            f"{len(data.validation):,} to validate on, the last {100 * config.validation_share:g} % of the text",
        ]

    def measure(self, learner: LanguageLearner) -> dict[str, Any]:
        """Metrics before the first step."""
        from xent.recipes import language_model

        return language_model.measure(learner)

    def display(self, console: Console, learner: LanguageLearner, latest: Metrics) -> Display:
        """Loss, bits per byte and speed."""
        from xent.recipes._display import Display

        return Display(console, learner.landmarks, learner.config.epochs, latest, learner.tokens_per_step)

    def train(self, learner: LanguageLearner, run: RunDirectory, display: Display) -> None:
        """Train up to the last epoch."""
        from xent.recipes import language_model

        language_model.train(learner, run, display)

    def show(self, learner: LanguageLearner, console: Console) -> dict[str, Any]:
        """A text that the model writes."""
        if not self.text.tokens or not self.workers.is_first:
            return {}
        if self.opened and not self.workers.is_alone:
            learner = learner.alone(self.opened[1].model())
        from rich.text import Text

        from xent.recipes._sampling import printable, sample

        prompt, text = sample(learner, self.text)
        console.print(
            f"sample     {self.text.tokens} tokens at temperature {self.text.temperature:g}, "
            f"going on from {_shortened(prompt)}",
            soft_wrap=True,
            markup=False,
        )
        console.print(Text(printable(prompt), style="bold").append(printable(text), style="not bold"), soft_wrap=True)
        console.print()
        return {"sample": {"prompt": prompt, "text": text, "temperature": self.text.temperature}}


def _shortened(prompt: str) -> str:
    return repr(prompt) if len(prompt) <= 60 else f"{prompt[:28]!r} … {prompt[-28:]!r}"


def _counted(count: int | None, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
