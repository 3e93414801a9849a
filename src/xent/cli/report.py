"""`xent report`: the page of one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xent.cli._interrupts import interrupts_held
from xent.errors import OptionError

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent report runs/digits-1\n\n"
    "  xent report runs/digits-1 runs/digits-2 --out both.html\n\n"
    "  xent report runs/digits-2 --serve"
)
_PORT = 8642


def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Directories with records. [dim]default: the newest under runs/[/dim]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The page. [dim]default: RUN/report.html; of several runs report.html[/dim]"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve it on 127.0.0.1 and follow the training; Ctrl-C ends it.")
    ] = False,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Of --serve; 0 for any free one.")] = _PORT,
) -> int:
    """Write the page of runs that were watched: one file to open in a browser, offline.

    The loss on its ruler, calibration, where the loss is, gradients by layer, what steps did, findings, time, setup.
    Several runs are drawn over one another, their settings compared. --serve keeps it up to date while a run goes on.
    """
    if out is not None and out.suffix != ".html":
        raise OptionError(f"--out {out}", "a page is a file that ends in .html", f"pass such as {out.stem}.html")
    with interrupts_held():
        from xent.report.run_page import newest_run, serve_report, write_report
    if not runs:
        runs = [newest_run(Path("runs"))]
        typer.echo(f"run        {runs[0]} (the newest under runs/)")
    if out is not None or not serve:
        page = out or (runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html"))
        write_report(runs, page)
        typer.echo(f"page       {page}")
    if serve:
        serve_report(runs, port, lambda address: typer.echo(f"serving    {address} (Ctrl-C ends it)"))
    return 0
