"""Runs a command, and says in one line what was wrong."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import xent
from xent.cli import bench, train
from xent.cli import doctor as doctor_command
from xent.cli import explain as explain_command
from xent.cli import report as report_command
from xent.cli import score as score_command
from xent.cli import watch as watch_command
from xent.cli._interrupts import INTERRUPTED, Stopped, was_interrupted
from xent.errors import OptionError, XentError
from xent.report._letters import PLAIN

FAILED, WRONG_USAGE = 1, 2
ERRORS: dict[Any, str] = {}  # how the streams met what they could not encode, before our commands changed it

app = typer.Typer(
    name="xent",
    help="Cross-entropy one can afford, see through and trust.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A command is one file: its `app` (or a function) is added here.
app.add_typer(train.app, name="train")
app.add_typer(bench.app, name="bench")
app.command("score", epilog=score_command.EPILOG)(score_command.score)
app.command("explain", epilog=explain_command.EPILOG)(explain_command.explain)
app.command("report", epilog=report_command.EPILOG)(report_command.report)
app.command(
    "doctor",
    epilog=doctor_command.EPILOG,
    cls=doctor_command.DoctorCommand,
    context_settings={"allow_interspersed_args": False},
)(doctor_command.doctor)
app.command(
    "watch",
    epilog=watch_command.EPILOG,
    cls=watch_command.WatchCommand,
    context_settings={"allow_interspersed_args": False},
)(watch_command.watch)


def _unwrap(group: typer.Typer) -> None:
    """Make a line of each paragraph of the docstrings, which the terminal wraps: Typer would keep the line ends."""
    for command in group.registered_commands:
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _unwrap(inner.typer_instance)


_unwrap(app)


@app.callback(invoke_without_command=True, epilog="[dim]Example:[/dim]  xent train digits")
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    """Cross-entropy one can afford, see through and trust."""
    if version:
        typer.echo(f"xent {xent.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(WRONG_USAGE)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return the exit status of `xent.cli.main`.

    Raises:
        KeyboardInterrupt: Ctrl-C, before a command had anything to keep.
    """
    for stream in (sys.stdout, sys.stderr):
        ERRORS.setdefault(stream, stream.errors)  # pyright: ignore[reportArgumentType]
        stream.reconfigure(errors=PLAIN)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        status = app(arguments, prog_name="xent", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:  # what Typer makes of a KeyboardInterrupt, in silence
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except typer.Abort:  # what older ones make of it
        raise KeyboardInterrupt from None
    except Stopped as stopped:
        typer.echo(f"xent: stopped; {stopped}", err=True)
        return INTERRUPTED
    except XentError as error:
        return _complain(str(error), WRONG_USAGE if isinstance(error, OptionError) else FAILED)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; without a reader that would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _complain("nobody reads the output any more", FAILED)
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from None
        if not hasattr(error, "format_message"):  # of Typer's parser, old (click's) or new (its own)
            raise
        return _complain(_usage_message(error), WRONG_USAGE)


def _usage_message(error: Any) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().rstrip(".")
    return f"{message}; see {context.command_path} --help" if context else message


def _complain(message: str, status: int) -> int:
    typer.echo(f"xent: error: {' '.join(message.split())}", err=True)
    return status
