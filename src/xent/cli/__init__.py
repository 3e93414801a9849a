"""The command line. Each command is one file; torch is imported only inside a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from xent.cli._interrupts import INTERRUPTED, interrupts_held

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 (failed), 2 (wrong usage), 130 (Ctrl-C)."""
    try:
        with interrupts_held():  # loading Typer takes long enough for somebody to think again
            from xent.cli import _main
        return _main.run(arguments)
    except KeyboardInterrupt:
        print("xent: stopped; nothing was begun", file=sys.stderr)
        return INTERRUPTED
