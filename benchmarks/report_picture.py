"""The picture of docs/report.md: trains the digits under xent.watch, writes the report, photographs it.

    python benchmarks/report_picture.py

Needs Debian's chromium on PATH and the extras `digits` and `report`.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from xent.cli import main
from xent.report.run_page import write_report

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "report.png"


def photographed(page: Path, picture: Path) -> None:
    """The page's first screen as a PNG, once its charts stand."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1180",
        "--virtual-time-budget=5000", f"--screenshot={picture}", page.resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def run() -> None:
    """Make the picture."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "digits"
        if main(["train", "digits", "--out", str(directory)]):
            raise SystemExit("the training failed")
        write_report([directory], directory / "report.html")
        photographed(directory / "report.html", PICTURE)


if __name__ == "__main__":
    run()
