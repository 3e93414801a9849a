"""`Receipt`: what an explanation says, in order, before it is text, Rich or HTML."""

from __future__ import annotations

from dataclasses import dataclass

from xent.report._numbers import number
from xent.report._table import WIDTH, ResultTable, shortened, width


@dataclass(frozen=True)
class Title:
    """The first line of a receipt, or of one of its terms."""

    text: str


@dataclass(frozen=True)
class Line:
    """A line with a word in front.

    Attributes:
        label: "Σ", "read", "note", …
        text: what follows.
        verdict: "good" or "bad" where the line says whether something holds; "warn", "dim"; "code" for a line of a
            program, which is cut where it is too long.
    """

    label: str
    text: str
    verdict: str = ""


@dataclass(frozen=True)
class RulerLine:
    """A loss between 0 and its landmarks.

    Attributes:
        here: the loss, in nats.
        marks: (value, words) of every landmark, ascending.
    """

    here: float
    marks: tuple[tuple[float, str], ...]

    @property
    def end(self) -> float:
        """The right end: the last landmark, or the loss if it lies beyond."""
        return max([self.here, 1e-300, *(value for value, _ in self.marks)])

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return min(max(value / self.end, 0.0), 1.0)

    def drawn(self, cells: int = 60) -> str:
        """The ruler as one line of text."""
        line = ["─"] * cells
        for value, _ in self.marks:
            line[round(self.place(value) * (cells - 1))] = "│"
        line[round(self.place(self.here) * (cells - 1))] = "●"
        return f"0 ├{''.join(line)}┤ {number(self.end)}"


@dataclass(frozen=True)
class Receipt:
    """The blocks of a receipt."""

    blocks: tuple[Title | Line | RulerLine | ResultTable, ...]

    def __str__(self) -> str:
        return "\n".join(line for block in self.blocks for line in as_text(block))


def as_text(block: Title | Line | RulerLine | ResultTable, columns: int = WIDTH) -> list[str]:
    """A block as lines of at most so many columns."""
    if isinstance(block, Title):
        return wrapped(block.text, "", "  ", columns)
    if isinstance(block, RulerLine):
        return [f" ruler  {block.drawn(max(min(60, columns - 24), 10))}"]
    if isinstance(block, ResultTable):
        return block.lines(columns)
    if block.verdict == "code":
        return [shortened(f" {block.label:<6} {block.text}", columns)]
    return wrapped(block.text, f" {block.label:<6} ", " " * 8, columns) if block.text else [f" {block.label}".rstrip()]


def wrapped(text: str, first: str, later: str, columns: int) -> list[str]:
    """Words in lines of at most so many columns, behind a label."""
    lines, line = [], first
    room = columns - max(width(first), width(later))
    for whole in text.split(" "):
        word = shortened(whole, room)
        joined = line + word if line in (first, later) else f"{line} {word}"
        if width(joined) > columns and line not in (first, later):
            lines.append(line)
            joined = later + word
        line = joined
    return [*lines, line]
