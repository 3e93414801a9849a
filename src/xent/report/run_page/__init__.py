"""The page of one or several runs, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xent.report._files import write_whole
from xent.report.run_page._comparison import page_data
from xent.report.run_page._html import html
from xent.report.run_page._records import newest_run, records_of
from xent.report.run_page._server import serve_report

__all__ = ["newest_run", "serve_report", "write_report"]


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
    write_whole(Path(out), html(page_data([records_of(Path(path)) for path in run_dirs])))
