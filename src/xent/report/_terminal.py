"""Receipts and tables in a terminal, by Rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from xent.report._receipt import Line, Receipt, RulerLine, Title, as_text
from xent.report._table import ResultTable

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERDICT = {"good": "green", "bad": "bold red", "": ""}


def rich_receipt(receipt: Receipt) -> RenderableType:
    """A receipt with colours; the words are those of its text."""
    return Group(*(rich_block(block) for block in receipt.blocks))


def rich_block(block: Title | Line | RulerLine | ResultTable) -> RenderableType:
    """One block."""
    if isinstance(block, ResultTable):
        return rich_table(block)
    text = Text("\n".join(as_text(block)), no_wrap=True, overflow="ellipsis")
    if isinstance(block, Title):
        text.stylize("bold")
    elif isinstance(block, Line):
        text.stylize("dim", 0, 8)
        text.stylize(_VERDICT[block.verdict], 8)
    else:
        text.highlight_regex("●", "bold cyan")
        text.highlight_regex("^ ruler", "dim")
    return text


def rich_table(table: ResultTable) -> RenderableType:
    """A table with its header dimmed."""
    text = Text("\n".join(table.lines()), no_wrap=True, overflow="ellipsis")
    lines = str(text).split("\n")
    start = len(table.title) + 1 if table.title else 0
    if table.title:
        text.stylize("bold", 0, len(table.title))
    text.stylize("dim", start, start + len(lines[1 if table.title else 0]))
    return text
