"""The page of one or several runs, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xent.report._files import write_whole
from xent.report.run_page._comparison import differences
from xent.report.run_page._html import html
from xent.report.run_page._records import RunRecords, newest_run, records_of
from xent.report.run_page._run_data import run_data

__all__ = ["newest_run", "page_data", "records_of", "write_report"]


def write_report(run_dirs: Sequence[Path], out: Path) -> None:
    """Write the page of some runs: one file, offline; whole or not there.

    Args:
        run_dirs: the directories of the runs, each with its `records.jsonl`.
        out: the file.

    Raises:
        RunError: a directory without records.
        OptionError: `out` is a folder, or its folder does not exist.
        DataError: `out` can't be written.
        DependencyError: altair, vl-convert or Jinja2 is not installed.
    """
    write_whole(out, html(page_data([records_of(Path(path)) for path in run_dirs])))


def page_data(runs: Sequence[RunRecords]) -> dict[str, Any]:
    """What the page shows of runs, as plain values of bounded size."""
    found = [run_data(run, len(runs)) for run in runs]
    return {"runs": _told_apart(found), "differences": differences(found)}


def _told_apart(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs, those of one name with their directory behind it."""
    names = [run["name"] for run in runs]
    for run in runs:
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({Path(run['path']).name})"
    return runs
