"""`xent train` on several processes: the losses of one, whoever holds what; checkpoints that go on with any number.

Losses are compared at 1e-6: they are 5.5 and 2.6, float32 sums in another order. Measured on these few steps: 1e-8.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.recipes import fault_samples
from tests.recipes.ranks import Done, Ranks

pytestmark = pytest.mark.slow
SMALL = [
    *("train", "language_model", "--max-bytes", "60000", "--steps", "3", "--features", "16", "--context", "16"),
    *("--batch-size", "5", "--layers", "1", "--threads", "1", "--sample", "5", "--epochs"),
]
TEXT = [
    *("train", "text", "--hidden", "8", "--features", "8", "--batch-size", "6", "--threads", "1"),
    *("--max-tokens", "12", "--epochs"),
]
WAYS = [(2, ()), (4, ()), (2, ("--shard",)), (4, ("--shard",)), (2, ("--vocab-parallel", "2")),
        (4, ("--vocab-parallel", "2")), (4, ("--vocab-parallel", "2", "--shard"))]  # fmt: skip


@pytest.fixture(scope="module")
def alone(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs on one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    well(ranks.run(1, *SMALL, "4", "--out", str(out)))
    return out


def well(done: list[Done]) -> list[Done]:
    assert [rank.status for rank in done] == [0] * len(done), [rank.stderr for rank in done]
    assert [rank.stderr for rank in done] == [""] * len(done), "no warning either"
    return done


def go_on(ranks: Ranks, size: int, run: Path, epochs: int, *more: str) -> list[Done]:
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    return ranks.run(size, "train", recipe, "--resume", str(run), "--epochs", str(epochs), *more)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line[part]["loss"] for line in lines(run) for part in ("train", "validation")]


def counts(run: Path) -> list[Any]:
    return [(line["validation"].get("tokens"), line["validation"].get("rows")) for line in lines(run)]


@pytest.mark.parametrize(("size", "options"), WAYS)
def test_the_losses_are_those_of_one_process(ranks, alone, tmp_path, size, options):
    done = well(ranks.run(size, *SMALL, "2", *options, "--out", str(tmp_path / "run")))
    assert losses(tmp_path / "run") == pytest.approx(losses(alone)[:4], abs=1e-6)
    assert counts(tmp_path / "run") == counts(alone)[:2], "every token is measured once"
    assert [rank.stdout.count("go on      ") for rank in done] == [1] + [0] * (size - 1), "one rank reports"
    assert (tmp_path / "run" / "report.html").is_file()
    for step in (1, 3, 6):
        assert token_mean(tmp_path / "run", step, size) == pytest.approx(token_mean(alone, step, 1), abs=1e-6)


def token_mean(path: Path, step: int, ranks: int) -> tuple[float, float]:
    """Σ nll ÷ Σ count over the records of all ranks, and Σ count."""
    files = sorted(path.glob("records*.jsonl"))
    assert len(files) == ranks
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    found = [record for record in records if record["kind"] == "step" and record["step"] == step]
    assert len(found) == ranks
    count = sum(record["count"] for record in found)
    return sum(record["sum_nll"] for record in found) / count, count


@pytest.mark.parametrize(("size", "options"), WAYS[:1] + WAYS[2:3] + WAYS[4:5])
def test_a_run_goes_on_with_another_number_of_processes(ranks, alone, tmp_path, size, options):
    run = tmp_path / "run"
    well(ranks.run(size, *SMALL, "2", *options, "--out", str(run)))
    well(go_on(ranks, 1, run, 3))
    well(go_on(ranks, 4, run, 4, *options))
    assert losses(run) == pytest.approx(losses(alone), abs=1e-6)
    with safe_open(run / "model.safetensors", "pt") as found, safe_open(alone / "model.safetensors", "pt") as needed:
        assert set(found.keys()) == set(needed.keys())
        for name in needed.keys():  # noqa: SIM118  (a file, no dict)
            # Adam's step is lr whatever the gradient: a weight whose gradient is rounding noise moves by lr either way.
            assert (found.get_tensor(name) - needed.get_tensor(name)).abs().max() < 1e-4


def test_from_two_to_four_and_from_four_to_two(ranks, alone, tmp_path):
    run = tmp_path / "run"
    well(ranks.run(2, *SMALL, "2", "--shard", "--out", str(run)))
    well(go_on(ranks, 4, run, 3, "--vocab-parallel", "4"))
    well(go_on(ranks, 2, run, 4, "--shard"))
    assert losses(run) == pytest.approx(losses(alone), abs=1e-6)


def test_from_a_mesh_of_two_axes_to_one_and_back(ranks, alone, tmp_path):
    run, both = tmp_path / "run", ("--vocab-parallel", "2", "--shard")
    well(ranks.run(4, *SMALL, "2", *both, "--out", str(run)))
    well(go_on(ranks, 2, run, 3, "--shard"))
    well(go_on(ranks, 4, run, 4, *both))
    assert losses(run) == pytest.approx(losses(alone), abs=1e-6)


def test_a_run_of_one_process_goes_on_with_two(ranks, alone, tmp_path):
    run = Path(shutil.copytree(alone, tmp_path / "run"))
    well(go_on(ranks, 2, run, 5, "--shard"))
    well(ranks.run(1, *SMALL, "5", "--out", str(tmp_path / "whole")))
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


def test_no_rank_has_or_writes_the_whole_of_a_sharded_model(ranks, alone, tmp_path):
    run = tmp_path / "run"
    well(ranks.run(2, *SMALL, "2", "--shard", "--sample", "0", "--out", str(run), fault=fault_samples.no_whole_tensors))
    parts = sorted(run.glob("checkpoint.parts-2-*/*"))
    assert len(parts) == 2
    for part in parts:
        with safe_open(part, "pt") as file:
            rows = file.get_slice("model.embedding.weight").get_shape()[0]
            moments = file.get_slice("optimizer.0.exp_avg").get_shape()[0]
        assert (rows, moments) == (128, 128), "half of 256"
    assert losses(run) == pytest.approx(losses(alone)[:4], abs=1e-6)


def test_replicas_share_the_writing(ranks, tmp_path):
    run = tmp_path / "run"
    well(ranks.run(2, *SMALL, "1", "--out", str(run)))
    names = []
    for part in sorted(run.glob("checkpoint.parts-1-*/*")):
        with safe_open(part, "pt") as file:
            names.append(set(file.keys()))
    assert len(names) == 2
    assert not names[0] & names[1], "each tensor is written once"
    assert "generator" in names[0] | names[1]


@pytest.mark.parametrize("size", [1, 2])
def test_a_damaged_part_is_found(ranks, alone, tmp_path, size):
    run = tmp_path / "run"
    well(ranks.run(2, *SMALL, "2", "--shard", "--out", str(run)))
    part = sorted(run.glob("checkpoint.parts-2-*/*"))[1]
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    done = go_on(ranks, size, run, 3)
    assert {rank.status for rank in done} == {1}
    assert one_message(done).count("the checksum of shard-00002") == 1
    (run / "checkpoint.previous").rename(run / "checkpoint")  # as the message advises
    well(go_on(ranks, size, run, 3))
    assert losses(run) == pytest.approx(losses(alone)[:6], abs=1e-6)


def test_a_missing_part_is_found(ranks, tmp_path):
    run = tmp_path / "run"
    well(ranks.run(2, *SMALL, "1", "--out", str(run)))
    sorted(run.glob("checkpoint.parts-1-*/*"))[0].unlink()
    for size in (1, 2):
        assert "shard-00001-model-00001-of-00001.safetensors is missing" in one_message(go_on(ranks, size, run, 2))


@pytest.mark.parametrize(("rank", "first", "last"), [(0, 0, 10), (1, 0, 2)])
def test_a_stop_at_every_write_of_an_epoch(ranks, alone, tmp_path, rank, first, last):
    """In epoch 2, of three: rank 0 makes 10 calls that keep or rename something, rank 1 two."""
    for call in range(first, last):
        run = tmp_path / f"{rank}-{call}"
        fault = fault_samples.Stop(rank, call)
        done = ranks.run(2, *SMALL, "3", "--shard", "--out", str(run), fault=fault)
        assert done[rank].status is None, f"rank {rank} was not stopped at call {call}: {done}"
        well(go_on(ranks, 1 + call % 2, run, 3))
        assert losses(run) == pytest.approx(losses(alone)[:6], abs=1e-6), f"stopped at call {call}"
        assert len(list(run.glob("checkpoint.parts-*"))) <= 2, "what no checkpoint names is removed"


def one_message(done: list[Done]) -> str:
    """The one message that the ranks leave."""
    found = [line for rank in done for line in rank.stderr.splitlines() if line.startswith("xent: error: ")]
    assert len(found) == 1, done
    return found[0]


def test_wrong_options_are_said_once(ranks, tmp_path):
    done = ranks.run(1, *SMALL, "1", "--vocab-parallel", "2", "--out", str(tmp_path / "run"))
    (tmp_path / "x").touch()
    assert "--vocab-parallel 2 with 1 process; their number must be a multiple of it" in one_message(done)
    for options, sentence in (
        (("--patience", "0"), "patience is 0"),
        (("--lr", "0"), "lr is 0"),
        (("--data", str(tmp_path / "nothing")), "which does not exist"),
        (("--out", str(tmp_path)), "already exists and is not empty"),
    ):
        done = ranks.run(2, *SMALL, "1", "--out", str(tmp_path / "run"), *options)
        assert done[0].status == 2, "rank 0 says it"
        assert sentence in one_message(done)


def test_fewer_windows_than_ranks(ranks, tmp_path):
    for size in (1, 2):
        well(ranks.run(size, *SMALL, "1", "--batch-size", "1", "--out", str(tmp_path / str(size))))
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), abs=1e-6)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 texts of very uneven lengths, some empty, in classes of very uneven sizes."""
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(150):
            words = [f"w{(row * 7 + place * place) % 23}" for place in range(row % 13)]
            writer.writerow([" ".join(words), "common" if row % 5 else f"rare{row % 3}"])
    return path


@pytest.mark.parametrize("options", [(), ("--class-weights", "--pooling", "attention")], ids=["plain", "weighted"])
def test_text_has_the_losses_of_one_process(ranks, table, tmp_path, options):
    runs = {size: tmp_path / str(size) for size in (1, 2, 4)}
    for size, run in runs.items():
        done = well(ranks.run(size, *TEXT, "3", "--data", str(table), *options, "--out", str(run)))
        assert sum("go on      " in rank.stdout for rank in done) == 1, "one rank reports"
    for size in (2, 4):
        for found, needed in zip(lines(runs[size]), lines(runs[1]), strict=True):
            for part in ("train", "validation"):  # a rank got 1 to 2 rows of a step, or none
                assert found[part] == pytest.approx(needed[part], abs=1e-5)
        assert counts(runs[size]) == counts(runs[1]), "every row is measured once"


def test_text_goes_on_with_another_number_of_processes(ranks, table, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    well(ranks.run(2, *TEXT, "1", "--data", str(table), "--out", str(run)))
    for size, epochs in ((4, 2), (1, 3)):
        well(go_on(ranks, size, run, epochs))
    well(ranks.run(1, *TEXT, "3", "--data", str(table), "--out", str(whole)))
    assert losses(run) == pytest.approx(losses(whole), abs=1e-6)
