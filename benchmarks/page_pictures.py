"""The pictures of two pages, for README.md and docs: an explained loss, and the report of a trained model.

    python benchmarks/page_pictures.py

Trains the digits under xent.watch, writes both pages and photographs them. Needs Debian's chromium on PATH and the
extras `digits` and `report`.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import xent
from xent.cli import main
from xent.report.run_page import write_report

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
NAMES = ["cat", "dog", "owl"]


def photographed(page: Path, name: str, height: int) -> None:
    """The page's first screen as a PNG, once its charts stand."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size=1000,{height}",
        "--virtual-time-budget=5000", f"--screenshot={PICTURES / name}", page.resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def explained(page: Path) -> None:
    """The loss that README.md explains."""
    logits = torch.tensor([[2.0, 1.5, -2.0], [0.0, -1.25, 1.0], [2.0, -1.0, 0.0], [-0.75, 1.0, -0.5]])
    loss = F.cross_entropy(logits.requires_grad_(), torch.tensor([0, 2, 0, -100]), label_smoothing=0.1)
    xent.explain(loss, class_names=NAMES).save(page)


def trained(directory: Path) -> Path:
    """The report of a training on digits."""
    if main(["train", "digits", "--out", str(directory)]):
        raise SystemExit("the training failed")
    write_report([directory], directory / "report.html")
    return directory / "report.html"


def run() -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "loss.html"
        explained(page)
        photographed(page, "explain.png", 1000)
        photographed(trained(Path(folder) / "digits"), "report.png", 1180)


if __name__ == "__main__":
    run()
