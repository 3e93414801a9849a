"""Put what benchmarks/gpu.py measured into docs/gpu.md, between its two marks.

    python benchmarks/gpu_page.py

Every figure there comes from benchmarks/results/gpu/gpu.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpu_report import Report, Row, table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu", ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """The page with the tables of what was measured."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + measured() + END + after


def measured() -> str:
    """The tables of the last run."""
    report = Report(**json.loads((RESULTS / "gpu.json").read_text("utf-8")))
    goals = [
        {
            "goal": goal["goal"],
            "wanted": goal["wanted"],
            "worst measured": goal["worst"],
            "": "reached" if goal["reached"] else "**missed**",
        }
        for goal in report.goals()
    ]
    parts = [
        _on(report),
        table(goals),
        "Forward + backward of logits, milliseconds (of the time of a copy of as many bytes, in brackets):\n",
        table(_steps(report)),
        _wrong(report),
        "Small losses, microseconds of a step as a program sees it:\n",
        table(report.small),
        "Linear + cross-entropy, bfloat16, forward + backward:\n",
        table([_linear(row) for row in report.linear]),
    ]
    return "\n" + "\n".join(parts) + "\n"


def _on(report: Report) -> str:
    machine = ", ".join(str(value) if name == "device" else f"{name} {value}" for name, value in report.machine.items())
    limits = " and ".join(f"{value:.3g} {name}" for name, value in report.limits.items())
    return f"{machine}. This very GPU: {limits}.\n"


def _steps(report: Report) -> list[Row]:
    names = list(dict.fromkeys(row["contestant"] for row in report.logits))
    cases = list(dict.fromkeys((row["classes"], row["dtype"]) for row in report.logits))
    by_case = {(row["contestant"], row["classes"], row["dtype"]): row for row in report.logits}
    return [
        {"classes": classes, "dtype": dtype, **{name: _step(by_case.get((name, classes, dtype), {})) for name in names}}
        for classes, dtype in cases
    ]


def _step(row: Row) -> str:
    return f"{row['step ms']:.2f} ({row['step of copy']:.0%})" if "step ms" in row else "failed"


def _wrong(report: Report) -> str:
    bad = [
        f"{row['contestant']} at {row['case']} ({row['note'].split('(')[0] or row['error']})"
        for row in report.correct
        if not row["right"]
    ]
    return (
        f"Of {len(report.correct)} results compared with float64, these were not right: {', '.join(bad) or 'none'}.\n"
    )


def _linear(row: Row) -> dict[str, Any]:
    names = ("shape", "contestant", "ms", "over three products", "extra MiB")
    return {name: row.get(name, "") for name in names}


if __name__ == "__main__":
    main()
