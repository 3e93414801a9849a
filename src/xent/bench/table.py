"""What a run shows on the terminal: a table for each contest, and at the end what is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_MIB = 2**20
_WORD = {True: "reached", False: "NOT REACHED", None: "not measured"}
_STYLE = {True: "green", False: "bold red", None: "yellow"}


def contest_table(contest: dict[str, Any], labels: dict[str, str]) -> RenderableType:
    """One contest, 80 columns wide."""
    rounds = max((record.get("rounds", 0) for record in contest["contestants"].values()), default=0)
    heading = Text(contest["title"], "bold")
    backend = Text(f"xent ran on: {contest['backend']['chosen']} · {rounds} rounds", "dim")
    unit = _Unit.fit_for(contest)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in (f"median {unit.name}", "± half", "speed", "extra MiB", "×logits", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    notes = []
    for name, record in contest["contestants"].items():
        label = labels.get(name, name)
        if "note" in record:
            notes.append(f"{label}: {record['note']}")
        if "median_ms" in record or "extra_bytes" in record:
            table.add_row(label, *_cells(record, contest, unit), style="bold" if name == "xent" else "")
    lines = [Padding(Text(note, "yellow"), (0, 0, 0, 2)) for note in notes]
    return Group(heading, backend, table, *lines, *_needs_lines(contest), Text())


def needs_table(results: dict[str, Any]) -> RenderableType:
    """Everything that is required, what was measured, and whether it is reached."""
    needs = [(contest["title"], need) for contest in results["contests"] for need in contest["needs"]]
    if not needs:
        return Text("nothing is required of these cases", "dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("work", overflow="fold")
    table.add_column("required")
    table.add_column("measured", justify="right")
    table.add_column("")
    last = ""
    for title, need in needs:
        word = Text(_WORD[need["reached"]], _STYLE[need["reached"]])
        table.add_row(title if title != last else "", f"{_who(need)}{need['text']}", need["shown"], word)
        last = title
    return Group(table, Text(), Text(summary(results)))


def summary(results: dict[str, Any]) -> str:
    """How much of what is required is reached, in a line."""
    verdicts = [need["reached"] for contest in results["contests"] for need in contest["needs"]]
    unknown = verdicts.count(None)
    ending = f"; {unknown} not measured" if unknown else ""
    return f"{verdicts.count(True)} of {len(verdicts)} requirements reached{ending}"


def _cells(record: dict[str, Any], contest: dict[str, Any], unit: _Unit) -> list[str]:
    extra, error = record.get("extra_bytes"), record.get("gradient_error")
    timed = "median_ms" in record
    return [
        unit.shown(record["median_ms"]) if timed else "",
        spread(record) if timed else "",
        f"{record['ratio']:.2f}×" if "ratio" in record else "",
        f"{extra / _MIB:,.0f}" if extra is not None else "",
        f"{extra / contest['logits_bytes']:.2f}" if extra is not None else "",
        f"{error:.0e}" if error is not None else "",
    ]


def spread(record: dict[str, Any]) -> str:
    """Half of the distance between the quartiles, in percent of the median: half of the rounds lie within."""
    return f"{50 * (record['q3_ms'] - record['q1_ms']) / record['median_ms']:.0f} %"


@dataclass(frozen=True)
class _Unit:
    name: str
    factor: float

    @classmethod
    def fit_for(cls, contest: dict[str, Any]) -> _Unit:
        longest = max((record.get("median_ms", 0.0) for record in contest["contestants"].values()), default=0.0)
        return cls("s", 1e-3) if longest >= 10_000 else cls("ms", 1.0) if longest >= 1 else cls("µs", 1e3)

    def shown(self, milliseconds: float) -> str:
        value = self.factor * milliseconds
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _needs_lines(contest: dict[str, Any]) -> list[RenderableType]:
    return [
        Padding(
            Text.assemble(
                (f"{_WORD[need['reached']]:<12}", _STYLE[need["reached"]]),
                f" {_who(need)}{need['text']}: {need['shown']}",
            ),
            (0, 0, 0, 2),
        )
        for need in contest["needs"]
    ]


def _who(need: dict[str, Any]) -> str:
    return "" if need["of"] == "xent" else f"{need['of']}: "
