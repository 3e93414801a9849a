"""Records where things go wrong: a full disk, a second run, a killed process, many processes, an unmodified program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.inspection.watching.test_watch import bits, loop, records, small
from xent.inspection.watching._writer import RecordWriter, as_line

PROGRAM = """
import sys, time
import torch, torch.nn.functional as F
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(12, 6), torch.randint(3, (12,))
for step in range(int(sys.argv[1])):
    if step == 5 and "raise" in sys.argv:
        raise ValueError("on purpose")
    if step == 5 and "wait" in sys.argv:
        print("waiting", flush=True)
        time.sleep(60)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print(loss.item().hex())
"""


def test_a_full_disk_stops_the_recording_with_one_warning_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = []
    for watched in (False, True):
        model, x, y = small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if not watched:
            loop(model, optimizer, x, y, 20)
        else:
            with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
                loop(model, optimizer, x, y, 5)
                full = FullDisk(watching._recording.writer._file, room=100)
                monkeypatch.setattr(watching._recording.writer, "_file", full)
                with pytest.warns(RuntimeWarning, match="the recording to .* stops .*the training goes on") as caught:
                    loop(model, optimizer, x, y, 15)
        found.append(bits(model))
    assert len(caught) == 1
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert [step["step"] for step in records(watching.path, "step")] == [1, 2, 3, 4, 5]  # and no half line


class FullDisk:
    """A file on a disk with so much room: it takes a part of a line, then nothing."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, line: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.file.write(line[: self.room])
        self.room -= written
        return written

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


def test_a_fault_of_the_recording_is_not_one_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xent.inspection.watching._recording.table_of", broken)
    words = "ZeroDivisionError: a bug.*the training goes on"
    watching = xent.watch(model, optimizer, tmp_path / "run")
    with pytest.warns(RuntimeWarning, match=words) as caught, watching:
        loop(model, optimizer, x, y, 3)
    assert len(caught) == 1


def test_a_second_run_never_overwrites_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    paths = []
    for _ in range(3):
        with xent.watch(model, optimizer, tmp_path / "run") as watching:
            loop(model, optimizer, x, y, 1)
        paths.append(watching.path)
    assert [path.parent.name for path in paths] == ["run", "run-2", "run-3"]
    assert all(len(records(path, "end")) == 1 for path in paths)
    assert f"{tmp_path / 'run'} has the records of another run; this one's are in" in capsys.readouterr().err


def test_the_file_stays_within_its_bounds(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run", every=1, max_bytes=400_000, doctor=False) as watching:
        loop(model, optimizer, x, y, 300)
    assert watching.path.stat().st_size < 400_000 + 200  # and the end
    steps = [step["step"] for step in records(watching.path, "step")]
    assert steps[-1] > 60  # rarer, not cut off where it is full
    assert records(watching.path)[-1]["kind"] == "end"


def test_numbers_that_json_does_not_have_are_words():
    record = {"kind": "step", "loss": float("nan"), "rows": [float("inf"), -float("inf"), 1.5], "text": "\ud800"}
    found = json.loads(as_line(record))
    assert found == {"kind": "step", "loss": "nan", "rows": ["inf", "-inf", 1.5], "text": "?"}


def test_a_loss_that_is_nan_is_recorded(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run", every=1, doctor=False) as watching:
        F.cross_entropy(model(x) * float("inf"), y).backward()
        optimizer.step()
    assert records(watching.path, "step")[0]["loss"] == "nan"


def test_a_forked_child_writes_nothing(tmp_path: Path):
    with (tmp_path / "records").open("xb", buffering=0) as file:
        writer = RecordWriter(tmp_path / "records", file, 1000)  # pyright: ignore[reportArgumentType]
        writer._pid += 1
        writer.write({"kind": "step"})
    assert not (tmp_path / "records").read_bytes()


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    xent_watch = [sys.executable, "-c", "import sys; from xent.cli import main; sys.exit(main())", "watch"]
    command = [*xent_watch, "--every", "1", "--out", "run", "program.py", *arguments]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_unmodified_program_gives_the_same_number(tmp_path: Path):
    out, err = start(tmp_path, "8").communicate()
    plain = subprocess.run(
        [sys.executable, "program.py", "8"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert out == plain.stdout
    assert "8 steps in" in err
    path = tmp_path / "run" / "records.jsonl"
    assert [step["step"] for step in records(path, "step")] == list(range(1, 9))
    assert records(path, "run")[0]["layers"] == ["0", "2"]
    assert records(path, "run")[0]["command"] == ["program.py", "8"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_ends_early_leaves_its_records(tmp_path: Path, how: str | signal.Signals):
    program = start(tmp_path, "8", "raise" if how == "raise" else "wait")
    if isinstance(how, signal.Signals):
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        program.send_signal(how)
    _, err = program.communicate(timeout=60)
    path = tmp_path / "run" / "records.jsonl"
    assert [step["step"] for step in records(path, "step")] == [1, 2, 3, 4, 5]
    ends = records(path, "end")
    if how == "raise":
        assert (program.returncode, ends[0]["error"]) == (1, "ValueError: on purpose")
        assert "ValueError: on purpose" in err
        assert "xent/" not in err.partition("xent watch")[0]
    else:
        assert program.returncode == -how
        assert [end["status"] for end in ends] == ([] if how == signal.SIGKILL else ["interrupted"])


RANK = """
import os, sys
import torch, torch.distributed as dist, torch.nn.functional as F
import xent
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with xent.watch(model, optimizer, sys.argv[1], every=1):
    for _ in range(2):
        x, y = torch.randn(3 + rank, 4), torch.randint(3, (3 + rank,))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_each_rank_has_its_own_denominators(tmp_path: Path):
    (tmp_path / "rank.py").write_text(RANK)
    for number in (1, 2):
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29511 + number), "WORLD_SIZE": "2"}
        ranks = [
            subprocess.Popen([sys.executable, "rank.py", "run"], cwd=tmp_path, env={**environment, "RANK": str(rank)})
            for rank in range(2)
        ]
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    for place in ("run", "run-2"):
        for rank, name in enumerate(("records.jsonl", "records.rank1.jsonl")):
            path = tmp_path / place / name
            assert [step["count"] for step in records(path, "step")] == [3 + rank] * 2
            (run,) = records(path, "run")
            assert (run["rank"], run["world_size"], run["layers"]) == (rank, 2, ["Linear"])


UNDER_TORCHRUN = RANK.replace("import xent\n", "").replace(
    "with xent.watch(model, optimizer, sys.argv[1], every=1):", "if True:"
)


@pytest.mark.slow
def test_an_unmodified_program_under_torchrun(tmp_path: Path):
    """Its ranks have no process group when the recording begins; they meet all the same, twice, beside an older run."""
    (tmp_path / "train.py").write_text(UNDER_TORCHRUN)
    (tmp_path / "runs" / "train-1").mkdir(parents=True)
    (tmp_path / "runs" / "train-1" / "records.jsonl").write_text("somebody's\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command = [*launcher, str(Path(sys.executable).with_name("xent")), "watch", "--no-doctor", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for number in (2, 3):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        for rank, name in enumerate(("records.jsonl", "records.rank1.jsonl")):
            path = tmp_path / "runs" / f"train-{number}" / name
            assert [step["count"] for step in records(path, "step")] == [3 + rank] * 2
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["train-1", "train-2", "train-3"]
    assert (tmp_path / "runs" / "train-1" / "records.jsonl").read_text() == "somebody's\n"


@pytest.mark.slow
def test_a_compiled_model_is_not_compiled_again(tmp_path: Path):
    torch._dynamo.reset()
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    model, x, y = small()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop(compiled, optimizer, x, y, 2)
    before = counter.frame_count
    for watched in (model, compiled):
        with xent.watch(watched, optimizer, tmp_path / "run") as watching:
            loop(compiled, optimizer, x, y, 6)
    assert counter.frame_count == before
    assert records(watching.path, "step")[0]["seconds"]["forward"] > 0
