"""The command line. Each command is one file; torch is imported only inside a command."""

from __future__ import annotations

from xent.cli._main import main

__all__ = ["main"]
