"""Print a result where it is read."""

from __future__ import annotations

import sys
from typing import Any


def show(result: Any) -> None:
    """As HTML in a notebook, with colours in a terminal, as text elsewhere."""
    shell = sys.modules.get("IPython")
    kernel = shell and shell.get_ipython()
    if kernel is not None and "IPKernelApp" in getattr(kernel, "config", {}):
        from IPython.display import display  # pyright: ignore[reportMissingImports]  (present where a kernel runs)

        display(result)
        return
    from rich.console import Console

    Console(highlight=False).print(result)
