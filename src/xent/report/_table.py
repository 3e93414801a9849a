"""`ResultTable`: records with named columns, shown as text, in a terminal, in a notebook, or given as a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

from xent.report._numbers import cell
from xent.report._style import page

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: name of the value in a record.
        header: what stands above it.
        kind: "text", "name" (a text that stands on the right), "integer", "number", "bits" or "percent".
        most: columns of a terminal that a text may take.
    """

    key: str
    header: str
    kind: str = "number"
    most: int = 40


@dataclass(frozen=True, eq=False)
class ResultTable(Sequence[dict[str, Any]]):
    """Records, and how they are shown.

    Attributes:
        records: one dict of plain values for each line.
        columns: which of the values are shown, in order.
        title: a line above.
        below: lines below.
    """

    records: tuple[dict[str, Any], ...]
    columns: tuple[Column, ...]
    title: str = ""
    below: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: Any) -> Any:
        return self.records[place]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.title or 'a table'}, {len(self)} lines>"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The table as lines of at most 100 columns."""
        body = [" " + line for line in _aligned(self)]
        return [*([self.title] if self.title else []), *body, *self.below]

    def __rich__(self) -> RenderableType:
        from xent.report._terminal import rich_table

        return rich_table(self)

    def _repr_html_(self) -> str:
        return page(self.html())

    def html(self) -> str:
        """The table alone, everything escaped."""
        head = "".join(f"<th{_side(column)}>{escape(column.header)}</th>" for column in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td{_side(c)}>{escape(cell(record.get(c.key), c.kind))}</td>" for c in self.columns)
            + "</tr>"
            for record in self.records
        )  # fmt: skip
        above = f"<p class='xent-title'>{escape(self.title)}</p>" if self.title else ""
        below = "".join(f"<p>{escape(line)}</p>" for line in self.below)
        return (
            f"{above}<div class='xent-wide'><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>{below}"
        )

    def to_dict(self) -> list[dict[str, Any]]:
        """The records, ready for JSON."""
        return [dict(record) for record in self.records]

    def to_frame(self) -> Any:
        """The records as a pandas data frame.

        Raises:
            DependencyError: pandas is not installed.
        """
        from xent.report._optional import needed

        return needed("pandas", "to_frame").DataFrame(self.to_dict())


def _side(column: Column) -> str:
    return "" if column.kind == "text" else " class='n'"


def _aligned(table: ResultTable) -> list[str]:
    grid = [[column.header for column in table.columns]]
    grid += [[shortened(cell(r.get(c.key), c.kind), c.most) for c in table.columns] for r in table.records]
    widths = [max(width(line[place]) for line in grid) for place in range(len(table.columns))]
    lines = []
    for line in grid:
        parts = []
        for text, size, column in zip(line, widths, table.columns, strict=True):
            space = " " * (size - width(text))
            parts.append(text + space if column.kind == "text" else space + text)
        lines.append(shortened("  ".join(parts).rstrip(), WIDTH - 1))
    return lines


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def shortened(text: str, most: int) -> str:
    """The text in at most that many columns."""
    if width(text) <= most:
        return text
    kept, used = [], 0
    for character in text:
        used += width(character)
        if used > most - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"
