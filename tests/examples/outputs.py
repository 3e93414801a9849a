"""What a notebook printed, beside what it printed when it was committed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

from nbformat import NotebookNode

NUMBER = re.compile(r"[-−+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-−+]?\d+)?")
# What is rounding and nothing else differs from one CPU to the next, and so may a mark in a drawn ruler or histogram.
ROUNDING = [
    (re.compile(r"\(\d+ ulp\)"), "(ulp)"),
    (re.compile(r"within \S+"), "within"),
    (re.compile("├.*┤"), "├┤"),
    (re.compile("[▁▂▃▄▅▆▇█]"), ""),
]


def texts(cell: NotebookNode) -> list[str]:
    """The stdout of a cell and the plain text of what it displays; a picture is its type."""
    printed = "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream" and o.name == "stdout")
    shown = [o.data for o in cell.get("outputs", []) if o.output_type in ("execute_result", "display_data")]
    return [printed, *("picture" if "image/png" in data else data["text/plain"] for data in shown)]


def complaints(notebook: NotebookNode) -> list[str]:
    """Errors and everything on stderr, warnings for one."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"{output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(output.text)
    return found


def differences(committed: NotebookNode, fresh: NotebookNode) -> list[str]:
    """The lines of a fresh run that are not those in the file; numbers may differ as `alike` allows."""
    found = []
    for number, (old, new) in enumerate(zip_longest(committed.cells, fresh.cells, fillvalue={})):
        for before, after in zip_longest(_lines(old), _lines(new), fillvalue=""):
            if not alike(before, after):
                found.append(f"cell {number}: {before!r} in the file, {after!r} now")
    return found


def _lines(cell: NotebookNode) -> Iterator[str]:
    for text in texts(cell):
        yield from text.splitlines()


def alike(before: str, after: str) -> bool:
    """Whether two lines are the same words and, within a unit of the last printed digit, the same numbers.

    A unit, because a value that lies between two printed ones may be rounded to either. Whole numbers must be equal:
    they count something.
    """
    for pattern, instead in ROUNDING:
        before, after = pattern.sub(instead, before), pattern.sub(instead, after)
    if NUMBER.sub("#", before).split() != NUMBER.sub("#", after).split():
        return False
    return all(_close(a, b) for a, b in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True))


def _close(before: str, after: str) -> bool:
    a, b = _value(before), _value(after)
    return abs(a - b) <= 1.001 * max(_unit(before), _unit(after))  # 1.001: 0.3 − 0.2 is a little more than 0.1


def _value(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def _unit(text: str) -> float:
    mantissa, _, power = text.replace("−", "-").partition("e")
    _, point, decimals = mantissa.partition(".")
    if not point and not power:
        return 0.0
    return 10.0 ** (int(power or 0) - len(decimals))
