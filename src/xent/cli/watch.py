"""`xent watch`: run a program as it is, and write its training down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xent.cli._watched_program import Choices, WatchedProgram
from xent.cli.doctor import ProgramCommand, program_of, restore_streams
from xent.errors import OptionError

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent watch train.py --epochs 3\n\n"
    "  xent watch --out runs/first --every 10 train.py\n\n"
    "  xent watch --tensorboard -m package.train"
)


class WatchCommand(ProgramCommand):
    """What follows SCRIPT, or the MODULE of -m, is the program's own."""

    with_value = ("--out", "--every")


def watch(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]...", help="The program, and what it is given.", show_default=False),
    ] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="MODULE", help="Run a module, as python -m.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to. [dim]default: runs/NAME-N, after the program[/dim]")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Record every N steps. [dim]default: as many as 1.3 % of the time pays for, 0.3 % of long steps[/dim]",
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars for TensorBoard too.")] = False,
    doctor: Annotated[bool, typer.Option(help="Let the doctor look at the first 21 steps.")] = True,
) -> int:
    """Run a program as it is, and write its training down while it goes on.

    The program runs as python SCRIPT ARGS would run it, with the same results; what its losses, gradients and steps
    come to is appended to DIR/records.jsonl, a JSON object a line, and `xent report DIR` draws it. Exit status: the
    program's own.
    """  # fmt: skip
    if every is not None and every < 1:
        raise OptionError(f"--every {every}", "it counts steps", "pass a number from 1 on, or leave it out")
    chosen = program_of(program or [], module)
    chosen.check()
    choices = Choices(None if out is None else out.absolute(), every, tensorboard, doctor)
    choices.check()
    restore_streams()
    raise SystemExit(WatchedProgram(choices).run(chosen))
