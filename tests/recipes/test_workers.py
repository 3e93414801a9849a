"""`xent train language_model` on several processes: the losses of one, whoever holds what; killed, resumed, restarted.

Losses are compared at 1e-6: they are 5.5, float32 sums in another order. Measured on these few steps: 1e-8.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
XENT = Path(sys.executable).with_name("xent")
SMALL = [
    "train",
    "language_model",
    "--max-bytes",
    "60000",
    "--steps",
    "3",
    "--epochs",
    "2",
    "--features",
    "16",
    "--context",
    "16",
    "--batch-size",
    "5",
    "--layers",
    "1",
    "--threads",
    "1",
    "--sample",
    "5",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}


def command(size: int, *arguments: str, restarts: int = 0) -> list[str]:
    if size == 1:
        return [str(XENT), *arguments]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return [*launcher, "--max-restarts", str(restarts), "--no-python", str(XENT), *arguments]


def run(size: int, *arguments: str, limit: float = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(size, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=limit, check=False
    )


def losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line[part]["loss"] for line in lines for part in ("train", "validation")]


def tokens(path: Path) -> list[tuple[int, int]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["validation"]["tokens"], line["validation"]["bytes"]) for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    assert run(1, *SMALL, "--out", str(out)).returncode == 0
    return out


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, ()),
        (2, ("--shard",)),
        (2, ("--vocab-parallel", "2")),
        (4, ("--vocab-parallel", "2")),
        (4, ("--vocab-parallel", "2", "--shard")),
    ],
)
def test_the_losses_are_those_of_one_process(alone, tmp_path, size, options):
    done = run(size, *SMALL, *options, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(alone), abs=1e-6)
    assert tokens(tmp_path / "run") == tokens(alone)
    assert done.stdout.count("go on      ") == 1, "one rank reports"


@pytest.mark.parametrize(
    ("size", "options", "others"),
    [
        (2, ("--vocab-parallel", "2"), [(1, ()), (2, ())]),
        (4, ("--vocab-parallel", "2", "--shard"), [(2, ("--shard",)), (4, ("--vocab-parallel", "4", "--shard"))]),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes(alone, tmp_path, size, options, others):
    out = tmp_path / "run"
    assert run(size, *SMALL, *options, "--out", str(out)).returncode == 0
    for epochs, (other, with_) in enumerate(others, 3):
        done = run(
            other, "train", "language_model", "--resume", str(out), "--epochs", str(epochs), "--sample", "0", *with_
        )
        assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    arguments = [argument if argument != "2" else "4" for argument in SMALL]
    assert run(1, *arguments, "--out", str(whole)).returncode == 0
    assert losses(out) == pytest.approx(losses(whole), abs=1e-6)


def test_a_killed_rank_ends_the_others_and_resume_goes_on(tmp_path):
    out = tmp_path / "run"
    status, stderr = with_a_killed_rank(out, restarts=0)
    assert status != 0
    assert stderr.count("xent: error:") <= 1, stderr
    done = run(2, "train", "language_model", "--resume", str(out), "--epochs", "40", "--sample", "0")
    assert done.returncode == 0, done.stderr
    assert len(losses(out)) == 80


@pytest.mark.xfail(
    reason="of two runs one went on and ended, one, on a loaded machine, was not done 90 s after the kill", strict=False
)
def test_torchrun_goes_on_by_itself(tmp_path):
    out = tmp_path / "run"
    status, stderr = with_a_killed_rank(out, restarts=1)
    assert status == 0, stderr
    assert len(losses(out)) == 80


def with_a_killed_rank(out: Path, restarts: int) -> tuple[int, str]:
    """Exit status and errors of 40 epochs on two ranks of which one is killed; 90 seconds at most."""
    arguments = [*SMALL, "--epochs", "40", "--out", str(out)]
    process = subprocess.Popen(
        command(2, *arguments, restarts=restarts), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        os.kill(rank_one(process, out), signal.SIGKILL)
        _, stderr = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, stderr


def rank_one(process: subprocess.Popen[str], out: Path) -> int:
    """The process id of rank 1, once an epoch is written."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size:
            for child in children_of(process.pid):
                if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
                    return child
        time.sleep(0.2)
    raise AssertionError("no rank 1")


def children_of(parent: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_wrong_numbers_of_processes_are_said(tmp_path):
    done = run(1, *SMALL, "--vocab-parallel", "2", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "--vocab-parallel 2 with 1 process; their number must be a multiple of it" in done.stderr
