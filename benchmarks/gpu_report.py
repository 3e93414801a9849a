"""What benchmarks/gpu.py found: tables for docs/gpu.md, and what must be reached beside what was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]


@dataclass
class Report:
    """What was measured."""

    machine: Row
    limits: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    correct: list[Row] = field(default_factory=list)
    logits: list[Row] = field(default_factory=list)
    small: list[Row] = field(default_factory=list)
    linear: list[Row] = field(default_factory=list)

    def goals(self) -> list[Row]:
        """Each goal of docs/gpu.md, the worst figure that was measured for it, and whether it is reached."""
        wide = [row for row in _of("xent", self.logits) if row["classes"] >= 32000 and row["dtype"] == "bfloat16"]
        first = self.linear[0]["shape"] if self.linear else ""
        heads = {row["contestant"]: row for row in self.linear if row["shape"] == first}
        ours, bare = heads.get("xent", {}), heads.get("xent, no logits", {})
        found = [
            _at_least("forward, of the copy rate, bfloat16", 0.9, (row.get("forward of copy") for row in wide)),
            _at_least("backward, of the copy rate, bfloat16", 0.9, (row.get("backward of copy") for row in wide)),
            _at_most("a step, over the fastest peer's", 1.0, self._over_peers()),
            _at_most(f"linear {first}, over three products", 1.15, [ours.get("over three products")]),
            _at_most("linear, extra MiB", 512, [ours.get("extra MiB")]),
            _at_most("linear without logits, extra MiB", 16, [bare.get("extra MiB")]),
            _at_most("linear, error over that of Cut Cross-Entropy and Liger", 1.0, self._over_errors()),
            _at_most("small, over eager torch", 1.0, (row.get("xent / torch") for row in self.small)),
        ]
        return [goal for goal in found if goal is not None]

    def _over_peers(self) -> Iterable[float | None]:
        cases = {(row["classes"], row["dtype"]) for row in self.logits}
        for case in sorted(cases):
            there = [row for row in self.logits if (row["classes"], row["dtype"]) == case and "step ms" in row]
            peers = [row["step ms"] for row in there if row["contestant"] != "xent"]
            yield from (row["step ms"] / min(peers) for row in _of("xent", there) if peers)

    def _over_errors(self) -> Iterable[float | None]:
        heads = [row for row in self.correct if row["case"].startswith("linear")]
        peers = [row["error"] for row in heads if row["contestant"] in ("cce", "liger") and not row["note"]]
        return [row["error"] / error for row in _of("xent", heads) for error in peers if error]

    def markdown(self) -> str:
        """The tables, with what they were measured on."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        limits = ", ".join(f"{value:.2f} {name}" for name, value in self.limits.items())
        absent = "".join(f"- {name} did not take part: {reason}\n" for name, reason in self.absent.items())
        errors = [{name: row[name] for name in ("contestant", "case", "error", "note")} for row in self.correct]
        parts = [f"Measured on {machine}. Limits of that device, measured: {limits}.\n", absent and f"\n{absent}"]
        for title, rows in (
            ("What must be reached", self.goals()),
            *(("Logits", self.logits), ("Small", self.small), ("Linear", self.linear)),
            ("Errors against float64", errors),
        ):
            parts.append(f"\n### {title}\n\n{table(rows)}")
        return "".join(parts)


def _of(contestant: str, rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["contestant"] == contestant]


def _at_least(goal: str, least: float, figures: Iterable[float | None]) -> Row | None:
    known = [figure for figure in figures if figure is not None]
    if not known:
        return None
    return {"goal": goal, "wanted": f"≥ {least}", "worst": min(known), "reached": min(known) >= least}


def _at_most(goal: str, most: float, figures: Iterable[float | None]) -> Row | None:
    known = [figure for figure in figures if figure is not None]
    if not known:
        return None
    return {"goal": goal, "wanted": f"≤ {most}", "worst": max(known), "reached": max(known) <= most}


def table(rows: list[Row]) -> str:
    """Markdown, a column for each name that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([_cell(row.get(name, "")) for name in names] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")
