"""A page with every token on the colour of its surprisal. One file, no script, no request; all text inert."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from xent.report._files import write_whole
from xent.report._numbers import number
from xent.report._optional import needed
from xent.report._page import seen, source_hash
from xent.scoring.score import Scored

BOUNDS = (0.5, 1, 2, 3, 4, 6, 8, 11, 15)  # bits, where a colour ends
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})
_WORST, _BEFORE = 20, 60  # tokens of the table, characters before each


@dataclass(frozen=True)
class Piece:
    """A token on the page."""

    text: str
    level: int | None
    title: str


@dataclass(frozen=True)
class Block:
    """A text on the page."""

    name: str
    note: str
    pieces: list[Piece]


def write_heat_map(path: Path, title: str, scored: Scored, summary: list[str]) -> None:
    """Write the page of what was scored.

    Raises:
        OptionError, DataError: the page can't be written.
    """
    jinja, style = needed("jinja2", "a page"), _style()
    loader = jinja.PackageLoader("xent.scoring", "page")
    template = jinja.Environment(loader=loader, autoescape=True, undefined=jinja.StrictUndefined).get_template(
        "heat_map.html"
    )
    rows = _rows(scored)
    html = template.render(
        title=title,
        style=style,
        policy=_policy(style),
        summary=[(line[:10].strip(), line[11:]) for line in summary],
        blocks=_blocks(rows),
        worst=_worst(rows),
        bounds=BOUNDS,
        shown=len(rows),
        all=scored.totals.tokens + scored.totals.unscored,
    )
    write_whole(path, seen(html))


def _policy(style: str) -> str:
    hashed = source_hash(style)
    return f"default-src 'none'; style-src '{hashed}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _style() -> str:
    return (resources.files("xent.scoring") / "page" / "heat_map.css").read_text("utf-8")


def _rows(scored: Scored) -> list[dict[str, Any]]:
    names = list(scored.shown)
    return [dict(zip(names, row, strict=True)) for row in zip(*scored.shown.values(), strict=True)]


def _blocks(rows: list[dict[str, Any]]) -> list[Block]:
    """A block for each text; rows without texts in one."""
    has_texts = any(row["token"] is not None for row in rows)
    grouped = groupby(rows, key=lambda row: row["row"] if has_texts or row["position"] is not None else None)
    return [_block(name, list(group)) for name, group in grouped]


def _block(name: int | None, rows: list[dict[str, Any]]) -> Block:
    counted = [row["bits"] for row in rows if row["bits"] is not None]
    note = f"{number(sum(counted) / len(counted), 3)} bits a token" if counted else "nothing scored"
    return Block("rows" if name is None else f"row {name:,}", f"{len(rows):,} tokens, {note}", [*map(_piece, rows)])


def _piece(row: dict[str, Any]) -> Piece:
    text = str(row["id"]) + " " if row["token"] is None else row["token"]
    if row["bits"] is None:
        return Piece(text, None, f"id {row['id']}, not scored")
    title = (
        f"{number(row['bits'], 3)} bits, {number(row['nats'], 3)} nats, rank {row['rank']:,}, "
        f"expected {number(row['entropy'], 3)} nats, id {row['id']}"
    )
    return Piece(text, bisect.bisect_right(BOUNDS, row["bits"]), title)


def _worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most surprising tokens, each with what stands before it."""
    places = [place for place, row in enumerate(rows) if row["bits"] is not None]
    made = []
    for place in sorted(places, key=lambda place: -rows[place]["bits"])[:_WORST]:
        row = rows[place]
        before = "".join(
            other["token"] or "" for other in rows[max(0, place - _BEFORE) : place] if other["row"] == row["row"]
        )
        before = before[-_BEFORE:].replace("\n", "⏎").replace("\t", "⇥")
        token = None if row["token"] is None else row["token"].translate(_VISIBLE)
        made.append({**row, "before": before, "token": token, "bits": number(row["bits"], 4)})
    return made
