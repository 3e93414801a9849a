"""Where the ranks of a run write: beside rank 0, or alone, never in another run's directory."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import torch

import xent
from tests.report.written_runs import step
from xent.inspection.watching import _place, _watch


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> torch.distributed.HashStore:
    """What torchrun keeps for its processes."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(_place, "_store_of_group", lambda: None)
    monkeypatch.setattr(_place, "_store_of_torchrun", lambda: store)
    return store


def opened(out: Path, rank: int, world_size: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The place of a rank, of which each is the first watch of its process."""
    monkeypatch.setattr(_place, "_watches", iter([1]))
    path, file = _place.opened(out, "x", rank, world_size)
    file.close()
    return str(path.relative_to(out.parent))


def test_ranks_meet_before_there_is_a_process_group(tmp_path: Path, store, monkeypatch) -> None:
    assert opened(tmp_path / "a", 0, 2, monkeypatch) == "a/records.jsonl"
    assert opened(tmp_path / "a", 1, 2, monkeypatch) == "a/records.rank1.jsonl"


def test_a_second_run_of_more_ranks_leaves_the_first_alone(tmp_path: Path, store, monkeypatch) -> None:
    opened(tmp_path / "a", 0, 1, monkeypatch)
    assert opened(tmp_path / "a", 0, 2, monkeypatch) == "a-2/records.jsonl"
    assert opened(tmp_path / "a", 1, 2, monkeypatch) == "a-2/records.rank1.jsonl"


def test_a_directory_with_another_ranks_records_is_taken(tmp_path: Path, store, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "records.rank1.jsonl").touch()
    assert opened(tmp_path / "a", 0, 2, monkeypatch) == "a-2/records.jsonl"


def test_a_rank_that_finds_no_other_has_its_own_directory(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(_place, "_store_of_group", lambda: None)
    opened(tmp_path / "a", 0, 2, monkeypatch)
    assert opened(tmp_path / "a", 1, 2, monkeypatch) == "a-rank1/records.jsonl"
    assert "by itself" in capsys.readouterr().err


def test_a_rank_that_goes_on_counts_its_watch_as_rank_0_does(tmp_path: Path, store, monkeypatch) -> None:
    """Or its next one would be given the directory of this one."""
    (tmp_path / "records.jsonl").touch()
    (tmp_path / "records.rank1.jsonl").write_text(json.dumps(step(1, 1.0)) + "\n")
    model = torch.nn.Linear(3, 2)
    for rank in (0, 1):
        monkeypatch.setattr(_watch, "rank_and_world", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(_place, "_watches", numbers := count(1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with xent.watch(model, optimizer, tmp_path, resume_at=1, doctor=False):
            pass
        assert next(numbers) == 2


def test_ranks_that_a_resumed_run_no_longer_has_keep_what_comes_before(tmp_path: Path) -> None:
    for rank in (1, 2):
        lines = [json.dumps(step(number, 1.0)) + "\n" for number in (1, 2, 3)]
        (tmp_path / f"records.rank{rank}.jsonl").write_text("".join(lines))
    _place.cut_further_ranks(tmp_path, 2, 2)
    kept = [len((tmp_path / f"records.rank{rank}.jsonl").read_text().splitlines()) for rank in (1, 2)]
    assert kept == [3, 2]  # rank 1 goes on and cuts its own
