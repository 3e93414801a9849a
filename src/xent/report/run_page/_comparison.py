"""Runs side by side: the page's data, and where their configurations differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xent.report.run_page._records import RunRecords
from xent.report.run_page._run_data import run_data

_GROUPS = ("config", "versions", "machine")


def page_data(runs: Sequence[RunRecords]) -> dict[str, Any]:
    """What the page shows of runs, as plain values of bounded size."""
    found = [run_data(run, len(runs)) for run in runs]
    return {"runs": _told_apart(found), "differences": differences(found)}


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs: of which group, their name, and each run's value or None."""
    if len(runs) < 2:
        return []
    found = []
    for group in _GROUPS:
        settings = [run["setup"][group] for run in runs]
        for name in dict.fromkeys(name for each in settings for name in each):
            values = [each.get(name) for each in settings]
            if len(set(values)) > 1:
                found.append({"group": group, "name": name, "values": values})
    return found


def _told_apart(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, those of one name with their directory behind it."""
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({Path(run['path']).name})"
    return runs
