"""Receipts as HTML for a cell of a notebook: self-contained, without a script, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from xent.report._numbers import number
from xent.report._receipt import Line, Receipt, RulerLine, Title
from xent.report._style import page
from xent.report._table import ResultTable


def html_receipt(receipt: Receipt, code: str = "", folded: Sequence[tuple[str, Receipt]] = ()) -> str:
    """A receipt, and below it, folded, further receipts under a word each, and the cell that reproduces it."""
    body = "".join(_block(block) for block in receipt.blocks)
    for word, more in folded:
        inner = "".join(_block(block) for block in more.blocks)
        body += f"<details><summary>{escape(word)}</summary><div class='xent-more'>{inner}</div></details>"
    if code:
        body += f"<details><summary>the same by hand</summary><pre>{escape(code)}</pre></details>"
    return page(body)


def _block(block: Title | Line | RulerLine | ResultTable) -> str:
    if isinstance(block, Title):
        return f"<p class='xent-title'>{escape(block.text)}</p>"
    if isinstance(block, RulerLine):
        return _ruler(block)
    if isinstance(block, ResultTable):
        return block.html()
    if not block.text and not block.label:
        return "<p>&nbsp;</p>"
    kind = f" class='{block.verdict}'" if block.verdict else ""
    label = f"<span class='dim'>{escape(block.label)}</span>&ensp;" if block.label else ""
    return f"<p>{label}<span{kind}>{escape(block.text)}</span></p>"


def _ruler(ruler: RulerLine) -> str:
    marks = "".join(f"<b style='left:{100 * ruler.place(value):.2f}%'></b>" for value, _ in ruler.marks)
    left = 100 * ruler.place(ruler.here)
    last = ruler.marks[-1] if ruler.marks else (ruler.end, "")
    return (
        f"<div class='ruler' role='img' aria-label='{escape(ruler.drawn(20), quote=True)}'><i></i>{marks}"
        f"<b class='here' style='left:{left:.2f}%'></b><span style='left:{left:.2f}%'>{number(ruler.here)}</span>"
        f"<span class='under' style='left:0'>0</span>"
        f"<span class='under' style='left:{100 * ruler.place(last[0]):.2f}%'>{number(last[0])}</span></div>"
    )
