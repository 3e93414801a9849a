"""Receipts and tables in a terminal, by Rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from xent.report._receipt import Line, Receipt, RulerLine, Title, as_text
from xent.report._table import WIDTH, ResultTable

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERDICT = {"good": "green", "bad": "bold red", "warn": "bold yellow", "code": "cyan", "dim": "dim", "": ""}


def rich_receipt(receipt: Receipt, columns: int = WIDTH) -> RenderableType:
    """A receipt with colours; the words are those of its text."""
    return Group(*(rich_block(block, columns) for block in receipt.blocks))


def rich_block(block: Title | Line | RulerLine | ResultTable, columns: int) -> RenderableType:
    """One block."""
    if isinstance(block, ResultTable):
        return rich_table(block, columns)
    text = Text("\n".join(as_text(block, columns)), no_wrap=True, overflow="ellipsis")
    if isinstance(block, Title):
        text.stylize("bold")
    elif isinstance(block, Line):
        text.stylize("dim", 0, 8)
        text.stylize(_VERDICT[block.verdict], 8)
    else:
        text.highlight_regex("●", "bold cyan")
        text.highlight_regex("^ ruler", "dim")
    return text


def rich_table(table: ResultTable, columns: int = WIDTH) -> RenderableType:
    """A table with its title bold and its header dimmed."""
    lines = table.lines(columns)
    text = Text("\n".join(lines), no_wrap=True, overflow="ellipsis")
    above = len(lines[0]) + 1 if table.title else 0
    if table.title:
        text.stylize("bold", 0, above)
    text.stylize("dim", above, above + len(lines[1 if table.title else 0]))
    return text
