"""benchmarks/gpu.py runs from the source tree, with neither the kernels in C++ nor typer nor rich to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
BARE = """
import runpy, sys
for name in ("typer", "rich", "safetensors", "jinja2", "xent.backends.native._kernels"):
    sys.modules[name] = None
sys.argv = ["benchmarks/gpu.py", *sys.argv[1:]]
sys.path.insert(0, "benchmarks")
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def report_of(**parts):
    from gpu_report import Report

    return Report({"device": "a GPU"}, **parts)


def test_goals_are_judged_by_the_worst_figure(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def row(contestant, classes, step, forward):
        return {
            "contestant": contestant,
            "classes": classes,
            "dtype": "bfloat16",
            "step ms": step,
            "forward of copy": forward,
            "backward of copy": 0.95,
        }

    logits = [
        row("xent", 32000, 1.0, 0.95),
        row("quack", 32000, 1.25, 0.9),
        row("xent", 50257, 3.0, 0.8),
        row("liger", 50257, 2.0, 0.9),
        {"contestant": "cce", "classes": 50257, "dtype": "bfloat16", "note": "no"},
    ]
    linear = [
        {"contestant": "xent", "shape": "8", "over three products": 1.1, "extra MiB": 500.0},
        {"contestant": "xent, no logits", "shape": "8", "over three products": 21.0, "extra MiB": 0.5},
    ]
    correct = [
        {"contestant": name, "case": "linear 8", "error": error, "note": ""}
        for name, error in (("xent", 1e-3), ("cce", 2e-3), ("liger", 4e-3))
    ]
    small = [{"xent / torch": 0.9}, {"xent / torch": 1.2}]
    goals = report_of(logits=logits, linear=linear, correct=correct, small=small).goals()
    assert [(goal["worst"], goal["reached"]) for goal in goals] == [
        (0.8, False),
        (0.95, True),
        (1.5, False),
        (1.1, True),
        (500.0, True),
        (0.5, True),
        (0.5, True),
        (1.2, False),
    ]
    assert report_of().goals() == []


def test_the_figures_of_the_page_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from gpu_page import PAGE, filled

    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "ignore", "-c", BARE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be measured")
def test_it_needs_a_gpu_and_says_so():
    done = run()
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert "needs a CUDA device" in done.stdout


@pytest.mark.slow
def test_it_runs_under_the_interpreter(tmp_path):
    done = run("--interpret", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    ours = [row for row in report["correct"] if row["contestant"].startswith("xent")]
    assert ours
    assert all(row["right"] for row in ours)
    assert all(report[name] for name in ("limits", "logits", "small", "linear"))
    text = (tmp_path / "gpu.md").read_text()
    assert "| xent |" in text
    assert "over three products | ≤ 1.15 |" in text
    earlier = {**report, "small": [{**row, "classes": -1} for row in report["small"]], "linear": report["linear"][:1]}
    (tmp_path / "gpu.json").write_text(json.dumps(earlier))
    again = run("--interpret", "--only", "small", "--out", str(tmp_path))
    assert again.returncode == 0, again.stdout + again.stderr
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert kept["linear"] == earlier["linear"]
    assert [row["classes"] for row in kept["small"]] == [row["classes"] for row in report["small"]]
