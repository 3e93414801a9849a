"""A rank that raises, is slow, is killed: all end in bounded time, one message names the cause, and `--resume` goes on.

Times are bounds, many times what is needed: this machine may be busy.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recipes import fault_samples
from tests.recipes.test_workers import SMALL, go_on, losses, one_message, well

pytestmark = pytest.mark.slow
LIMIT = 300.0  # seconds
PATIENCE = ("--patience", "5")


@pytest.mark.parametrize(
    ("size", "fault", "sentence"),
    [
        (2, fault_samples.raising, "rank 1: the page is torn; pages are whole: glue it"),
        (4, fault_samples.raising, "rank 1: the page is torn; pages are whole: glue it"),
        (
            2,
            fault_samples.slow,
            "rank 1 of 2 did not answer for 5 s, after epoch 1; every rank must come to every step",
        ),
        (
            4,
            fault_samples.slow,
            "rank 1 of 4 did not answer for 5 s, after epoch 1; every rank must come to every step",
        ),
        (2, fault_samples.full, "can't be written (rank 1: [Errno 28] No space left on device"),
        (2, fault_samples.first_full, "metrics.jsonl can't be written (No space left on device)"),
    ],
)
def test_one_message_names_the_cause(ranks, tmp_path, size, fault, sentence):
    run = tmp_path / "run"
    patience = PATIENCE if fault is fault_samples.slow else ()
    done = ranks.run(size, *SMALL, "30", *patience, "--out", str(run), fault=fault, limit=LIMIT)
    assert [rank.status for rank in done] == [1] * size
    assert sentence in one_message(done)
    assert len(losses(run)) >= 2
    well(go_on(ranks, 2, run, 3))
    assert len(losses(run)) == 6


def test_an_error_that_nobody_foresaw_is_the_only_one(ranks, tmp_path):
    done = ranks.run(2, *SMALL, "30", "--out", str(tmp_path / "run"), fault=fault_samples.odd, limit=LIMIT)
    assert [(rank.status, rank.stderr) for rank in done] == [(1, ""), (1, "MemoryError: no memory for 8 bytes")]


@pytest.mark.parametrize(
    ("size", "killed", "options"),
    [
        (2, 1, ()),
        (2, 0, ()),
        (4, 2, ()),
        (2, 1, ("--shard",)),
        (4, 3, ("--shard",)),
        (2, 0, ("--vocab-parallel", "2")),
        (4, 2, ("--vocab-parallel", "2", "--shard")),
    ],
)
def test_a_killed_rank_is_named(ranks, tmp_path, size, killed, options):
    run = tmp_path / "run"
    ranks.start(size, *SMALL, "1000", *options, "--out", str(run))
    wait_for_an_epoch(run)
    os.kill(ranks.pid(killed), signal.SIGKILL)
    done = ranks.wait(size, limit=LIMIT)
    assert [rank.status for rank in done] == [None if rank == killed else 1 for rank in range(size)]
    message = one_message(done)
    assert f"rank {killed} of {size} ended without a word, after epoch" in message
    assert f"go on under torchrun with xent train language_model --resume {run}" in message
    epochs = len(losses(run)) // 2 + 1
    well(go_on(ranks, 2, run, epochs))
    assert len(losses(run)) == 2 * epochs


def test_a_stopped_rank_is_late(ranks, tmp_path):
    run = tmp_path / "run"
    ranks.start(2, *SMALL, "1000", *PATIENCE, "--out", str(run))
    wait_for_an_epoch(run)
    os.kill(ranks.pid(1), signal.SIGSTOP)
    stopped, pipe = ranks.pid(1), ranks.pipe(0)
    try:
        assert pipe.poll(LIMIT), "rank 0 ends though rank 1 does nothing"
    finally:
        os.kill(stopped, signal.SIGKILL)
    assert "rank 1 of 2 did not answer for 5 s" in one_message(ranks.wait(2, limit=LIMIT))


def test_all_are_told_to_end(ranks, tmp_path):
    run = tmp_path / "run"
    ranks.start(2, *SMALL, "1000", "--out", str(run))
    wait_for_an_epoch(run)
    for rank in (0, 1):
        os.kill(ranks.pid(rank), signal.SIGTERM)
    message = one_message(ranks.wait(2, limit=LIMIT))
    assert "was told to end (SIGTERM), after epoch" in message or "lost the others, after epoch" in message
    assert f"--resume {run}" in message


@pytest.mark.parametrize("first", [0, 1])
def test_a_second_attempt_does_not_meet_the_dead_of_the_first(ranks, tmp_path, first):
    """torchrun keeps its store, where what the killed and their heirs wrote still is."""
    run = tmp_path / "run"
    ranks.start(2, *SMALL, "1000", "--out", str(run))
    wait_for_an_epoch(run)
    os.kill(ranks.pid(1 - first), signal.SIGKILL)
    ranks.wait(2, limit=LIMIT)
    epochs = len(losses(run)) // 2 + 1
    resume = ["train", "language_model", "--resume", str(run), "--epochs", str(epochs)]
    fault = fault_samples.late if first == 0 else fault_samples.first_late
    well(ranks.run(2, *resume, fault=fault, again=True, limit=LIMIT))
    assert len(losses(run)) == 2 * epochs


def wait_for_an_epoch(run: Path) -> None:
    """Until the second line of metrics.jsonl: the first epoch has its checkpoint then."""
    end, metrics = time.monotonic() + LIMIT, run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < end, "no epoch was written"
        time.sleep(0.02)


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Torchrun]:
    launched = Torchrun(tmp_path)
    yield launched
    launched.close()


def test_torchrun_goes_on_by_itself(ranks, torchrun, tmp_path):
    run = tmp_path / "run"
    torchrun.start(2, *SMALL, "12", "--out", str(run), restarts=1)
    wait_for_an_epoch(run)
    os.kill(torchrun.rank(1), signal.SIGKILL)
    status, stdout, stderr = torchrun.wait()
    assert status == 0, stderr
    assert "resumed    after epoch" in stdout
    assert stderr.count("xent: error: rank 1 of 2 ended without a word") == 1, stderr
    assert stderr.count("xent: error:") == 1, stderr
    well(ranks.run(1, *SMALL, "12", "--out", str(tmp_path / "alone")))
    assert losses(run) == pytest.approx(losses(tmp_path / "alone"), abs=1e-6)


def test_torchrun_ends_with_one_message(ranks, torchrun, tmp_path):
    run = tmp_path / "run"
    torchrun.start(2, *SMALL, "1000", "--shard", "--out", str(run))
    wait_for_an_epoch(run)
    os.kill(torchrun.rank(0), signal.SIGKILL)
    status, _, stderr = torchrun.wait()
    assert status == 1
    assert stderr.count("xent: error: rank 0 of 2 ended without a word") == 1, stderr
    assert stderr.count("xent: error:") == 1, stderr
    epochs = len(losses(run)) // 2 + 1
    well(go_on(ranks, 2, run, epochs))
    assert len(losses(run)) == 2 * epochs


class Torchrun:
    """`torchrun -m xent …`; loading torch twice and again takes a busy machine minutes."""

    limit = 400.0  # seconds

    def __init__(self, place: Path) -> None:
        self._place, self._process = place, None

    def start(self, size: int, *arguments: str, restarts: int = 0) -> None:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with (self._place / "stdout").open("wb") as stdout, (self._place / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [*launcher, "--max-restarts", str(restarts), "-m", "xent", *arguments],
                env=environment, stdout=stdout, stderr=stderr, start_new_session=True,
            )  # fmt: skip

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        assert self._process is not None
        parent = self._process.pid
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if f"\0RANK={number}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
        raise AssertionError(f"no rank {number}")

    def wait(self) -> tuple[int, str, str]:
        """Status, stdout, stderr."""
        assert self._process is not None
        status = self._process.wait(self.limit)
        return status, (self._place / "stdout").read_text(), (self._place / "stderr").read_text()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
