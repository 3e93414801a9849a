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
    assert "| xent |" in (tmp_path / "gpu.md").read_text()
