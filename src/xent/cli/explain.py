"""`xent explain`: where a loss comes from, from files or a trained run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xent.cli._interrupts import interrupts_held
from xent.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from xent.inspection import Explanation

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent explain --logits logits.npy --targets labels.json\n\n"
    "  xent explain --logits batch.safetensors:logits --targets batch.safetensors:labels --order worst -n 20\n\n"
    "  xent explain runs/digits-1 --html digits.html"
)
_DEFAULTS: dict[str, Any] = {"reduction": "mean", "ignore_index": -100, "label_smoothing": 0.0, "dim": None}
Kind = Literal["cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
Order = Literal["worst", "best", "first", "random"]


def explain(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run directory of xent train.", show_default=False)
    ] = None,
    logits: Annotated[
        str | None, typer.Option(metavar="FILE", help=".json .npy .safetensors .csv .parquet, or FILE:NAME.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class indices, or probabilities of the logits' shape.")
    ] = None,
    weight: Annotated[str | None, typer.Option(metavar="FILE", help="Class weights.")] = None,
    kind: Annotated[Kind, typer.Option(help="The loss.")] = "cross_entropy",
    reduction: Annotated[str, typer.Option(metavar="R", help="mean, sum or none.")] = "mean",
    ignore_index: Annotated[int, typer.Option(metavar="N", help="Target of rows that do not count.")] = -100,
    label_smoothing: Annotated[float, typer.Option(metavar="X", help="Share spread over all classes.")] = 0.0,
    dim: Annotated[
        int | None, typer.Option(metavar="N", help="Dimension of the classes. [dim]torch's: 1[/dim]")
    ] = None,
    order: Annotated[Order | None, typer.Option(help="Which rows to list below the receipt.")] = None,
    num_rows: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, help="How many rows to list: of --order, else of the worst.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page too: rows to move, offline, one file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
) -> int:
    """Show where a loss comes from: every number between the logits and it.

    From files with logits and targets, or from a run of xent train: its validation rows, the worst, the best and some
    at random, each with its digit or text. --html writes a page whose rows can be moved.
    """
    if html is not None and html.suffix != ".html":
        raise OptionError(f"--html {html}", "a page is a file that ends in .html", f"pass such as {html.stem}.html")
    if run is not None and (logits or targets or weight):
        raise OptionError(f"a run ({run}) and files", "a run has its own rows", "pass one of the two")
    files = _files(logits, targets) if run is None else ("", "")
    given = {"reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing, "dim": dim}
    options = {name: value for name, value in given.items() if value != _DEFAULTS[name]}
    if run is not None and (options or kind != "cross_entropy"):
        typed = next(iter(options), "kind").replace("_", "-")
        raise OptionError(f"a run ({run}) and --{typed}", "a run's loss has its own options", "leave it out")
    with interrupts_held():
        from xent.cli import _explained_run
    if run is not None:
        explained = _explained_run.of_run(run)
    else:
        explained = _explained_run.ExplainedRun(_of_files(files, weight, kind, options), "")
    explanation = explained.explanation
    if html is not None:
        explained.save(html)
    if as_json:
        typer.echo(json.dumps(explanation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        listed = order if num_rows is None else order or "worst"
        _print(explanation, explained.shown, listed, 10 if num_rows is None else num_rows)
        if html is not None:
            typer.echo(f"\npage       {html}")
    return 0 if explanation.equality.explained else 1


def _files(logits: str | None, targets: str | None) -> tuple[str, str]:
    if logits and targets:
        return logits, targets
    missing = "--logits and --targets" if not logits and not targets else "--targets" if logits else "--logits"
    raise OptionError(f"no {missing}", "logits and targets, or a run, are explained", f"pass {missing}, or a run")


def _of_files(files: tuple[str, str], weight: str | None, kind: Kind, options: dict[str, Any]) -> Explanation:
    import xent
    from xent.inspection._tensor_files import read_tensor

    input, columns = read_tensor(files[0], "logits")
    target = read_tensor(files[1], "targets").tensor
    class_weight: Tensor | None = None if weight is None else read_tensor(weight, "weight").tensor
    if not input.is_floating_point():
        input = input.double()
    if target.shape == input.shape or kind.startswith("binary"):
        target = target.to(input.dtype)
    elif target.is_floating_point() and bool((target == target.round()).all()):
        target = target.long()  # a CSV column with one empty cell, a JSON list of 1.0, …
    if class_weight is not None:
        class_weight = class_weight.to(input.dtype)
    return xent.explain(input, target, class_weight, kind=kind, class_names=columns, **options)


def _print(explanation: Explanation, pictures: str, order: Order | None, num_rows: int) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(explanation)
    if pictures:
        console.print()
        console.print(pictures, markup=False, soft_wrap=True)
    if order is not None:
        console.print()
        console.print(explanation.rows(order, num_rows))
