"""`xent doctor`: run a program as it is, and name the mistakes it makes with its losses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from xent.cli._examined_program import Choices, Examination
from xent.cli._program import Program
from xent.errors import OptionError

EPILOG = (
    "[dim]Examples:[/dim]\n\n"
    "  xent doctor train.py --epochs 3\n\n"
    "  xent doctor --json report.json -m package.train\n\n"
    "  xent doctor --explain softmax-before-cross-entropy"
)


class ProgramCommand(TyperCommand):
    """A command whose options end where the program's own begin: at SCRIPT, or after the MODULE of -m.

    Attributes:
        with_value: those that take one.
    """

    with_value: tuple[str, ...] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put what follows -m MODULE behind a --."""
        place = 0
        while place < len(args) and args[place].startswith("-") and args[place] not in ("-", "--"):
            if args[place] == "-m":
                args.insert(min(place + 2, len(args)), "--")
                break
            place += 2 if args[place] in self.with_value else 1
        return super().parse_args(ctx, args)


class DoctorCommand(ProgramCommand):
    """What follows SCRIPT, or the MODULE of -m, is the program's own."""

    with_value = ("--json", "--mute", "--only", "--explain")


def doctor(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]...", help="The program, and what it is given.", show_default=False),
    ] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="MODULE", help="Run a module, as python -m.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as JSON too.")] = None,
    mute: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Leave a rule out; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Check only this; may be repeated.")] = None,
    list_rules: Annotated[bool, typer.Option("--list", help="List all rules.")] = False,
    explain: Annotated[str | None, typer.Option(metavar="RULE", help="Show the page of a rule.")] = None,
    env: Annotated[bool, typer.Option("--env", help="Show versions, backends and instruction sets.")] = False,
) -> int:
    """Run a program as it is, and name the mistakes it makes with its losses.

    The program runs as python SCRIPT ARGS would run it; the report goes to stderr when it ends. Exit status: the
    program's own if it is not 0, else 1 with an error or a warning, 0 without.
    """  # fmt: skip
    if list_rules or explain is not None or env:
        from xent.cli import _doctor_pages

        return _doctor_pages.show(list_rules, explain, env)
    from xent.inspection.checks._registry import check_names

    choices = Choices(tuple(mute or ()), tuple(only or ()), None if json is None else json.absolute())
    check_names([*choices.mute, *choices.only])
    if choices.json is not None and (not choices.json.parent.is_dir() or choices.json.is_dir()):
        raise OptionError(f"--json {json}", "its folder must be there, and it is a file", "pass the path of a file")
    chosen = program_of(program or [], module)
    chosen.check()
    restore_streams()
    status = Examination(choices).run(chosen)
    raise SystemExit(status)


def program_of(given: list[str], module: str | None) -> Program:
    """What is to run.

    Raises:
        OptionError: nothing was given.
    """
    if module is not None:
        return Program(None, module, tuple(given))
    if not given:
        raise OptionError("no program", "a script or a module is run", "pass SCRIPT or -m MODULE")
    return Program(given[0], None, tuple(given[1:]))


def restore_streams() -> None:
    """The program's streams as Python made them: our commands replace what a terminal can't show."""
    from xent.cli._main import ERRORS

    for stream in (sys.stdout, sys.stderr):
        if stream in ERRORS:
            stream.reconfigure(errors=ERRORS[stream])  # pyright: ignore[reportAttributeAccessIssue]
