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
    from rich.console import Console, ConsoleOptions, RenderResult

WIDTH = 100
_NARROWEST = 9  # columns that a text at the right end may be cut to before it is left out


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

    def lines(self, columns: int = WIDTH) -> list[str]:
        """The table as lines of at most so many columns; what does not fit on the right is left out."""
        body = [" " + line for line in _aligned(self, columns - 1)]
        return [*([shortened(self.title, columns)] if self.title else []), *body, *self.below]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from xent.report._terminal import rich_table

        yield rich_table(self, min(options.max_width, WIDTH))

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


def _aligned(table: ResultTable, most: int) -> list[str]:
    grid = [[column.header for column in table.columns]]
    grid += [[shortened(cell(r.get(c.key), c.kind), c.most) for c in table.columns] for r in table.records]
    columns = list(table.columns)
    widths = [max(width(line[place]) for line in grid) for place in range(len(columns))]
    while len(columns) > 1 and (over := sum(widths) + 2 * (len(widths) - 1) - most) > 0:
        if columns[-1].kind == "text" and widths[-1] - over >= _NARROWEST:
            widths[-1] -= over
        else:
            del columns[-1], widths[-1]
    return [_line(line, widths, columns) for line in grid]


def _line(texts: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    parts = []
    for whole, size, column in zip(texts, widths, columns, strict=False):
        text = shortened(whole, size)
        space = " " * (size - width(text))
        parts.append(text + space if column.kind == "text" else space + text)
    return "  ".join(parts).rstrip()


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
