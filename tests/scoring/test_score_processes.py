"""`xent score` under torchrun: the bytes of one process, one message when a rank fails, and parts to go on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
from tests.scoring.hub_model import TEXTS, write_model

pytestmark = pytest.mark.slow
XENT = Path(sys.executable).with_name("xent")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONWARNINGS": "ignore"}
NUM_TEXTS = 1100  # five shards


def command(size: int, *arguments: object) -> list[str]:
    alone = [str(XENT), "score", *map(str, arguments)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return alone if size == 1 else [*launcher, "--no-python", *alone]


def score(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(size, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("given")
    write_model(folder / "model")
    texts = [(TEXTS[number % 4] + " cat") * (1 + number % 2) for number in range(NUM_TEXTS)]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return folder / "model", folder / "texts.jsonl"


@pytest.fixture(scope="module")
def alone(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("alone")
    done = score(1, *given, "--stride", 8, "--out", folder / "scores.jsonl", "--html", folder / "page.html")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("size", [2, 4])
def test_scores_totals_and_page_are_those_of_one_process(
    given: tuple[Path, Path], alone: tuple[Path, str], tmp_path: Path, size: int
) -> None:
    done = score(size, *given, "--stride", 8, "--out", tmp_path / "scores.jsonl", "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    folder, said = alone
    assert done.stdout == said.replace(str(folder), str(tmp_path))
    for name in ("scores.jsonl", "page.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("scores")] == ["scores.jsonl"]


def test_a_killed_rank_ends_the_others_and_the_command_goes_on(
    given: tuple[Path, Path], alone: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "scores.jsonl"
    arguments = (*given, "--stride", 8, "--out", out)
    process = subprocess.Popen(
        command(2, *arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        rank_one = _rank_one(process)
        os.kill(rank_one, signal.SIGSTOP)  # it is not done before it is killed, however fast the shards go
        _wait_for_a_shard(tmp_path / "scores.jsonl.parts")
        os.kill(rank_one, signal.SIGKILL)
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 1
    said = [line for line in stderr.splitlines() if line.startswith("xent: ")]
    assert len(said) == 1, stderr
    assert f"give the command again to go on from {out}.parts" in said[0]
    assert not out.exists()
    assert score(4, *arguments).returncode == 0
    assert out.read_bytes() == (alone[0] / "scores.jsonl").read_bytes()


def _rank_one(process: subprocess.Popen[str]) -> int:
    """The process id of rank 1, as soon as there is one: it has torch to load before its first shard."""
    end, children = time.monotonic() + 120, Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < end:
        for child in children.read_text().split():
            with suppress(OSError):  # it may be gone
                if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
                    return int(child)
        time.sleep(0.01)
    raise AssertionError("no rank 1")


def _wait_for_a_shard(parts: Path) -> None:
    end = time.monotonic() + 120
    while not any(path.suffix == ".json" and path.stem.isdigit() for path in parts.glob("*")):
        assert time.monotonic() < end, "no shard is done"
        time.sleep(0.01)


def test_a_rank_that_fails_says_why_and_nobody_else_does(tmp_path: Path) -> None:
    logits = np.zeros((1 << 18, 2), dtype=np.float32)
    logits[200_000] = np.nan
    np.save(tmp_path / "logits.npy", logits)
    np.save(tmp_path / "targets.npy", np.zeros(len(logits), dtype=np.int64))
    arguments = ("--logits", tmp_path / "logits.npy", "--targets", tmp_path / "targets.npy")
    done = score(2, *arguments)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("xent: ")]
    assert len(said) == 1, done.stderr
    assert "row 200000: its logits are NaN" in said[0]
    skipping = score(2, *arguments, "--skip-bad", "--json")
    totals = json.loads(skipping.stdout)
    assert (totals["tokens"], totals["skipped"]) == (len(logits) - 1, 1)
    assert totals["nats"] == pytest.approx((len(logits) - 1) * np.log(2), rel=1e-6)


def test_a_wrong_option_is_said_once() -> None:
    done = score(2, "--logits", "nowhere.npy")
    assert done.returncode == 1  # torchrun's own
    assert [line for line in done.stderr.splitlines() if line.startswith("xent: ")] == [
        "xent: error: no --targets; saved logits are scored against targets: pass --targets"
    ]
