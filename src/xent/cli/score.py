"""`xent score`: surprisal of every token of a corpus, or of every row, under a model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xent.cli._interrupts import Stopped, interrupts_held
from xent.errors import OptionError

if TYPE_CHECKING:
    from xent.scoring._corpora import Corpus
    from xent.scoring._score_files import ScoreFiles
    from xent.scoring._sharing import Sharing
    from xent.scoring._text_scores import LanguageModel, Reading
    from xent.scoring.score import Scored

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent score gpt2 reviews.parquet --text-column review --out scores.parquet --html scores.html\n\n"
    "  xent score ./my-model book.txt --stride 512\n\n"
    "  xent score runs/language_model-1 texts.jsonl --out scores.jsonl\n\n"
    "  xent score --logits logits.npy --targets labels.npy\n\n"
    "  torchrun --nproc-per-node 4 --no-python xent score ./my-model texts.jsonl --out scores.jsonl"
)
Beginning = Literal["auto", "bos", "eos", "none"]


def score(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A model directory, a hub name, or a run of xent train.", show_default=False
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Argument(metavar="TEXTS", help=".txt .jsonl .csv .tsv .parquet; a run has its own.", show_default=False),
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="NAME", help="Column of the texts in a table.")] = "text",
    lines: Annotated[bool, typer.Option("--lines", help="Each line of a plain file is a text.")] = False,
    logits: Annotated[
        str | None, typer.Option(metavar="FILE", help="Instead of a model: .npy .safetensors .pt, or FILE:NAME.")
    ] = None,
    targets: Annotated[str | None, typer.Option(metavar="FILE", help="Class indices, one for each row.")] = None,
    ignore_index: Annotated[int, typer.Option(metavar="N", help="Target of rows that do not count.")] = -100,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another tokenizer than the model's own.")
    ] = None,
    bos: Annotated[
        Beginning, typer.Option(help="Token before every text. [dim]auto: bos, else eos, else none[/dim]")
    ] = "auto",
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens read at once. [dim]default: the model's most[/dim]")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="N", help="Read a longer text in windows that move by N tokens.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Windows at once.")] = 8,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="Of the weights: float32, bfloat16, auto.")] = "float32",
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, …")] = "cpu",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and count them.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every token's scores: .parquet or .jsonl.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with every token coloured.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> int:
    """Score a corpus: the surprisal of every token, its rank, and the entropy of what was predicted.

    Totals are sums over tokens: nats, bits per token, byte and character, perplexity of a token, a word and a byte. A
    command that was stopped goes on where it was when it is given again with the same --out. Under torchrun the
    processes share the work, and one of them reports.
    """
    from xent.scoring._sharing import sharing_of_processes

    with sharing_of_processes() as sharing:
        if (logits is None) != (targets is None):
            missing = "--targets" if targets is None else "--logits"
            raise OptionError(f"no {missing}", "saved logits are scored against targets", f"pass {missing}")
        if (model is None) == (logits is None):
            got = "neither a model nor --logits" if model is None else f"a model ({model}) and --logits"
            raise OptionError(got, "one of the two is scored", "pass one; see xent score --help")
        with interrupts_held():
            from xent.scoring import _text_scores
            from xent.scoring._score_files import check_out
        if out is not None:
            check_out(out)  # before a model is loaded
        if html is not None:
            _check_page(html)
        output = _Output(out, html, as_json, skip_bad, sharing)
        given = {
            "--ignore-index": ignore_index != -100,
            **{"--tokenizer": tokenizer is not None, "--dtype": dtype != "float32", "--device": device != "cpu"},
            **{"--bos": bos != "auto", "--context": context is not None, "--stride": stride is not None},
            **{"--text-column": text_column != "text", "--lines": lines},
        }
        if model is None:
            _refuse_idle(given, (*_OF_MODELS, *_OF_READING, *_OF_FILES), "--logits")
            return _score_saved(logits or "", targets or "", ignore_index, output)  # both are there, as checked above
        run = _recipe(Path(model))
        _refuse_idle(given, ("--ignore-index", *_idle_with(run, texts)), f"{model}")
        if run == "digits":
            _no_texts(texts, model)
            from xent.scoring._saved_rows import digits_rows

            return output.rows(digits_rows(Path(model)), ignore_index)
        reading = _text_scores.Reading(context, stride, batch_size)
        if run is not None:
            return _score_run(Path(model), run, _Texts(texts, text_column, lines, bos), reading, output)
        from xent.scoring._hub_models import HubOptions, load_hub_model

        corpus = _Texts(texts, text_column, lines, bos).corpus(skip_bad)
        loaded = load_hub_model(model, HubOptions(tokenizer, bos, dtype, sharing.device(device)))
        return output.texts(loaded, corpus, _text_scores.check_reading(reading, loaded))


_OF_MODELS, _OF_FILES = ("--tokenizer", "--dtype", "--device"), ("--text-column", "--lines")
_OF_READING = ("--bos", "--context", "--stride")


def _idle_with(recipe: str | None, texts: Path | None) -> tuple[str, ...]:
    """The options that say nothing to a model, or to a run of a recipe."""
    if recipe is None:
        return ()
    if recipe != "language_model":
        return (*_OF_MODELS, *_OF_READING, *_OF_FILES)
    return _OF_MODELS if texts is not None else (*_OF_MODELS, *_OF_FILES)


def _refuse_idle(given: dict[str, bool], names: tuple[str, ...], source: str) -> None:
    for name in names:
        if given[name]:
            raise OptionError(f"{name} with {source}", "it says nothing there", f"leave {name} out")


def _check_page(html: Path) -> None:
    from xent.report._files import check_place

    if html.suffix != ".html":
        raise OptionError(f"--html {html}", "a page is a file that ends in .html", f"pass such as {html.stem}.html")
    check_place(html)


@dataclass(frozen=True)
class _Texts:
    """What was typed about the texts."""

    path: Path | None
    column: str
    lines: bool
    beginning: Beginning

    def corpus(self, skip_bad: bool) -> Corpus:
        from xent.scoring._corpora import Corpus

        if self.path is None:
            raise OptionError("no TEXTS", "a model scores texts", "pass a .txt, .jsonl, .csv or .parquet file")
        corpus = Corpus(self.path, self.column, self.lines, skip_bad)
        corpus.identity()  # it is there
        return corpus


def _recipe(path: Path) -> str | None:
    """The recipe of a run of xent's; None for anything else."""
    config = path / "config.json"
    if not config.is_file():
        return None
    try:
        content = json.loads(config.read_bytes())
    except (ValueError, OSError):
        return None
    if not isinstance(content, dict) or "xent_run" not in content:
        return None
    from xent.recipes._run_directory import recipe_of

    return recipe_of(path)


def _no_texts(texts: Path | None, model: str) -> None:
    if texts is not None:
        raise OptionError(f"{model} and {texts}", "such a run has its own rows", "leave the texts out")


def _score_saved(logits: str, targets: str, ignore_index: int, output: _Output) -> int:
    from xent.scoring._saved_rows import saved_rows

    return output.rows(saved_rows(logits, targets, ignore_index), ignore_index)


def _score_run(path: Path, recipe: str, texts: _Texts, reading: Reading, output: _Output) -> int:
    from dataclasses import replace

    from xent.scoring._corpora import ValidationText
    from xent.scoring._run_models import RunModel
    from xent.scoring._text_scores import check_reading

    if recipe == "text":
        _no_texts(texts.path, str(path))
        from xent.scoring._run_rows import text_rows

        return output.rows(text_rows(path), ignore_index=-100)
    if recipe != "language_model":
        raise OptionError(
            f"{path} is a run of {recipe}", "runs of language_model, text and digits are scored", "pass one of these"
        )
    if texts.beginning not in ("auto", "none"):
        raise OptionError(f"--bos {texts.beginning}", "a run has no such token", "pass --bos none")
    model = RunModel(path)
    if texts.path is not None:
        return output.texts(model, texts.corpus(output.skip_bad), check_reading(reading, model))
    stride = reading.stride or reading.context or model.context  # its own text is longer than its context
    corpus = ValidationText(path, text=model.validation_text())
    return output.texts(model, corpus, check_reading(replace(reading, stride=stride), model))


@dataclass(frozen=True)
class _Output:
    """Where scores go."""

    out: Path | None
    html: Path | None
    as_json: bool
    skip_bad: bool
    sharing: Sharing

    def texts(self, model: LanguageModel, corpus: Corpus, reading: Reading) -> int:
        """Score texts and say what came out."""
        from xent.scoring.score import score_corpus

        windows = {"context": reading.context, "stride": reading.stride}
        files = self._files({"model": model.identity(), "corpus": corpus.identity(), **windows})
        opening = [
            f"model      {model.describe()}",
            f"texts      {corpus.describe()}",
            f"beginning  {model.beginning()}",
            *model.notes,
        ]
        scored = self._run(opening, files, lambda told: score_corpus(model, corpus, reading, files, self.sharing, told))
        return self._say(scored, opening, "text", f"{model.describe()} on {corpus.describe()}")

    def rows(self, rows: Any, ignore_index: int) -> int:
        """Score rows and say what came out."""
        from xent.scoring.score import score_rows

        files = self._files({**rows.identity, "skip_bad": self.skip_bad})
        opening = [f"rows       {rows.source}: {len(rows.targets):,} of {rows.num_classes:,} classes"]
        work = lambda told: score_rows(rows, ignore_index, self.skip_bad, files, self.sharing, told)  # noqa: E731
        scored = self._run(opening, files, work)
        return self._say(scored, opening, "row", rows.source)

    def _files(self, identity: dict[str, Any]) -> ScoreFiles | None:
        if self.out is None:
            return None
        import xent
        from xent.scoring._score_files import ScoreFiles

        return ScoreFiles(self.out, {"xent": xent.__version__, **identity})

    def _run(self, opening: list[str], files: ScoreFiles | None, work: Any) -> Scored | None:
        from rich.console import Console

        if self.sharing.is_first and not self.as_json:
            typer.echo("\n".join(opening))
        try:
            with Console(stderr=True, quiet=not self.sharing.is_first).status("scoring") as status:
                return work(lambda tokens: status.update(f"scoring: {tokens:,} so far"))
        except KeyboardInterrupt:
            parts = files.parts if files is not None and files.parts.is_dir() else None
            where = "nothing was written" if parts is None else f"give the command again to go on from {parts}"
            why = "SIGTERM came, as it does when another rank has ended; " if self.sharing.terminated else ""
            raise Stopped(why + where) from None

    def _say(self, scored: Scored | None, opening: list[str], kind: str, title: str) -> int:
        if scored is None:  # rank 0 says it
            return 0
        if self.html is not None:
            from xent.scoring._heat_map import write_heat_map

            write_heat_map(self.html, title, scored, [*opening, *_summary(scored, kind)])
        if self.as_json:
            totals = {name: _finite(value) for name, value in scored.totals.to_dict().items()}
            said = {**totals, "resumed_shards": scored.resumed, "faults": scored.faults, "out": _named(self.out)}
            typer.echo(json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False))
            return 0
        typer.echo("\n".join(_summary(scored, kind)))
        for name, path in (("scores", self.out), ("page", self.html)):
            if path is not None:
                typer.echo(f"{name:<10} {path}")
        return 0


def _unscored(count: int) -> str:
    if count == 1:
        return "; 1 first token is predicted by nothing"
    return f"; {count:,} first tokens are predicted by nothing" if count else ""


def _short(perplexity: float) -> str:
    return f"{perplexity:,.4f}" if perplexity < 1e6 else f"{perplexity:.4g}"


def _named(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(scored: Scored, kind: str) -> list[str]:
    totals, means = scored.totals, scored.totals.means()
    what = "token" if kind == "text" else "row"
    lines = []
    if kind == "text":
        texts = "text" if totals.texts == 1 else "texts"
        lines.append(
            f"scored     {totals.tokens:,} tokens of {totals.texts:,} {texts}, {totals.bytes:,} bytes, "
            f"{totals.words:,} words" + _unscored(totals.unscored)
        )
    else:
        lines.append(f"scored     {totals.tokens:,} rows; {totals.unscored:,} do not count")
    if scored.resumed:
        lines.append(f"resumed    {scored.resumed:,} shards were done")
    if totals.skipped:
        lines.append(f"skipped    {totals.skipped:,} bad rows; {'; '.join(scored.faults)}")
    if not means:
        return [*lines, "total      nothing was scored"]
    lines.append(f"total      {totals.nats:,.4f} nats")
    lines.append(
        f"{what:<10} {means['nats_per_token']:.4f} nats, {means['bits_per_token']:.4f} bits, "
        f"perplexity {_short(means['perplexity'])}; the model expected {means['entropy_per_token']:.4f} nats"
    )
    if "bits_per_byte" in means:
        lines += [
            f"byte       {means['bits_per_byte']:.4f} bits, perplexity {_short(means['byte_perplexity'])}",
            f"character  {means['bits_per_character']:.4f} bits",
            f"word       perplexity {_short(means['word_perplexity'])}",
        ]
    lines.append(f"likeliest  {100 * means['accuracy']:.1f} % of the {what}s")
    return lines
