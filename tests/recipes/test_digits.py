"""The digits recipe: what it reaches, that it repeats to the bit, and what its numbers mean."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from tests.recipes.test_idx import idx
from xent.errors import DataError, OptionError, RunError
from xent.recipes import digits, digits_runs
from xent.recipes._digit_images import Rows, load_digit_images
from xent.recipes._display import Display, metrics_table, ruler
from xent.recipes._landmarks import Landmarks, landmarks_of, perplexity
from xent.recipes.digits_config import DigitsConfig

MNIST = Path(__file__).parents[2] / ".." / "shared" / "data" / "mnist"
SMALL = DigitsConfig(epochs=3, hidden=8)


def run(config: DigitsConfig, out: Path) -> dict:
    learner, run = digits_runs.begin(config, out)
    finish(learner, run)
    return run.last_metrics()


def finish(learner, run) -> None:
    display = Display(
        Console(file=io.StringIO()), learner.landmarks, learner.config.epochs, {"epoch": 0, **digits.measure(learner)}
    )
    try:
        with display:
            digits.train(learner, run, display)
    finally:
        run.close()


def fingerprints(out: Path) -> dict[str, str]:
    timed = {"records.jsonl", "report.html"}  # which hold seconds
    files = sorted(path for path in out.iterdir() if path.name not in timed)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_defaults_reach_96_percent(tmp_path: Path):
    assert run(DigitsConfig(), tmp_path / "run")["validation"]["accuracy"] >= 0.96


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason=f"the MNIST sample is not here ({MNIST})")
def test_defaults_reach_94_percent_on_the_mnist_sample(tmp_path: Path):
    # 12 of the 30 epochs: there already, in a third of the time
    metrics = run(DigitsConfig(data=str(MNIST), epochs=12), tmp_path / "run")
    assert (metrics["train"]["rows"], metrics["validation"]["rows"]) == (8000, 2000)
    assert metrics["validation"]["accuracy"] >= 0.94


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_runs_write_the_same_bytes(tmp_path: Path, optimizer):
    config = DigitsConfig(epochs=2, optimizer=optimizer, label_smoothing=0.1)
    run(config, tmp_path / "first")
    torch.rand(3)  # the global generator has no part in it
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(config, tmp_path / "second")
    finally:
        torch.set_num_threads(torch_threads)
    assert fingerprints(tmp_path / "first") == fingerprints(tmp_path / "second")


def test_another_seed_is_another_run(tmp_path: Path):
    assert run(SMALL, tmp_path / "first") != run(DigitsConfig(epochs=3, hidden=8, seed=1), tmp_path / "second")


def test_leaves_the_process_as_it_was(tmp_path: Path):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(SMALL, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_metrics_count_every_row_once_and_alike(tmp_path: Path):
    # 1438 rows in batches of 1437: a mean of means would weigh the last row like all others together
    learner, run = digits_runs.begin(DigitsConfig(epochs=1, batch_size=1437), tmp_path / "run")
    finish(learner, run)
    metrics = run.last_metrics()
    for part, rows in (("train", learner.data.train), ("validation", learner.data.validation)):
        logits = learner.model(rows.features).detach()
        loss = F.cross_entropy(logits.double(), rows.labels).item()
        # float32 log-softmax of each row: 2^-24 relative to logits of about 10
        assert metrics[part]["loss"] == pytest.approx(loss, abs=1e-6)
        assert metrics[part]["bits"] == pytest.approx(loss / math.log(2), abs=2e-6)
        assert metrics[part]["accuracy"] == (logits.argmax(1) == rows.labels).double().mean().item()


def test_label_smoothing_is_trained_but_the_loss_stays_comparable():
    learner = digits.build(DigitsConfig(label_smoothing=0.2))
    rows = learner.data.validation
    metrics = digits.evaluate(learner.model, rows, 0.2)
    logits = learner.model(rows.features).detach()
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, rows.labels).item(), rel=1e-6)
    smoothed = F.cross_entropy(logits, rows.labels, label_smoothing=0.2).item()
    assert metrics["smoothed_loss"] == pytest.approx(smoothed, rel=1e-6)


def test_writes_what_it_says(tmp_path: Path):
    import safetensors.torch

    import xent

    run(SMALL, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"] == {**SMALL.to_dict(), "lr": 0.5}
    assert config["versions"]["xent"] == xent.__version__
    assert len(config["data"]["sha256"]) == 64
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    model = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in model.items()} == {
        "0.weight": (8, 64),
        "0.bias": (8,),
        "2.weight": (10, 8),
        "2.bias": (10,),
    }


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path):
    learner, run = digits_runs.begin(DigitsConfig(lr=1e30, epochs=3), tmp_path / "run")
    with pytest.raises(
        RunError, match=r"the loss is \w+ after epoch 1; it must be finite: start a new run with an --lr"
    ):
        finish(learner, run)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""


BAD_OPTIONS = [
    {"lr": -1.0}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"epochs": 0}, {"batch_size": -3}, {"hidden": 0},
    {"hidden": 10**12}, {"seed": -1}, {"seed": 2**63}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1},
    {"optimizer": "lion"}, {"optimizer": ["sgd"]}, {"hidden": 50.5}, {"hidden": True}, {"epochs": "3"}, {"seed": 1.5},
    {"seed": None}, {"data": 5}, {"lr": "0.5"}, {"lr": 10**400}, {"label_smoothing": None}, {"batch_size": False},
]  # fmt: skip


@pytest.mark.parametrize("option", BAD_OPTIONS, ids=str)
def test_options_are_checked_when_the_config_is_built(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        DigitsConfig(**option)


def mnist_like(directory: Path, prefix: str, num_rows: int, size: int = 5) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    images = torch.randint(256, (num_rows, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (num_rows,), generator=generator, dtype=torch.uint8)
    directory.mkdir(exist_ok=True)
    (directory / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images.numpy()))
    (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels.numpy()))


def load(directory: Path, seed: int = 0):
    return load_digit_images(str(directory), torch.Generator().manual_seed(seed))


def test_both_pairs_are_kept_apart(tmp_path: Path):
    mnist_like(tmp_path, "train", 30)
    mnist_like(tmp_path, "t10k", 7)
    images = load(tmp_path)
    assert (len(images.train), len(images.validation), images.num_features) == (30, 7, 25)
    assert float(images.train.features.max()) <= 1


def test_one_pair_is_split_by_the_seed(tmp_path: Path):
    mnist_like(tmp_path, "t10k", 50)
    first, again, other = load(tmp_path), load(tmp_path), load(tmp_path, seed=1)
    assert (len(first.train), len(first.validation)) == (40, 10)
    assert torch.equal(first.validation.features, again.validation.features)
    assert not torch.equal(first.validation.features, other.validation.features)
    assert first.sha256 == other.sha256


def test_a_pair_of_another_size(tmp_path: Path):
    mnist_like(tmp_path, "train", 30)
    mnist_like(tmp_path, "t10k", 7, size=4)
    with pytest.raises(DataError, match="train and t10k images are 5×5 and 4×4"):
        load(tmp_path)


def test_half_a_pair(tmp_path: Path):
    mnist_like(tmp_path, "train", 30)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte stands alone; train-labels-idx1-ubyte must stand"):
        load(tmp_path)


def test_too_few_rows_to_split(tmp_path: Path):
    mnist_like(tmp_path, "t10k", 4)
    with pytest.raises(DataError, match="4 rows; a split 80/20 needs 5 or more"):
        load(tmp_path)


def test_landmarks():
    labels = torch.tensor([0, 0, 1, 1])
    landmarks = landmarks_of(labels, 4, label_smoothing=0.1)
    assert landmarks.guessing == math.log(4)
    assert landmarks.label_prior == pytest.approx(math.log(2), abs=1e-15)
    smoothed = torch.tensor([0.925, 0.025, 0.025, 0.025], dtype=torch.float64)
    assert landmarks.floor == pytest.approx(float(torch.special.entr(smoothed).sum()), abs=1e-15)
    assert landmarks_of(labels, 4).floor == 0
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e4) == math.inf


@pytest.mark.parametrize("losses", [(0.0, 0.0), (-1e-9, 0.0), (0.1, 0.1), (2.3, 2.31), (5e3, 1.0)])
@pytest.mark.parametrize("width", [5, 14, 40, 80])
def test_the_ruler_fits(losses, width):
    metrics = {
        part: {"loss": loss, "bits": loss, "accuracy": 1.0}
        for part, loss in zip(("train", "validation"), losses, strict=True)
    }
    lines = ruler(metrics, Landmarks(10, math.log(10), 2.3, 0.0), width).plain.splitlines()
    assert len(lines[0]) <= max(width, 24) + 2
    assert "○" in lines[0]
    console = Console(file=io.StringIO(), width=80)
    console.print(metrics_table(metrics))
    assert "perplexity" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("nats", "shown"), [(0.0953102, "1.100"), (0.0122, "1.012"), (math.log(256), "256.0"), (math.log(1234.4), "1234")]
)
def test_a_perplexity_has_four_digits(nats, shown):
    console = Console(file=io.StringIO(), width=80)
    numbers = {"loss": nats, "bits": 1.0, "accuracy": 1.0}
    console.print(metrics_table({"train": numbers, "validation": numbers}))
    assert shown in console.file.getvalue().split()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_live_view_is_drawn_on_a_terminal_and_leaves_nothing_behind():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = Terminal()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    metrics = {part: {"loss": 0.5, "bits": 0.7, "accuracy": 0.9} for part in ("train", "validation")}
    with Display(console, Landmarks(10, math.log(10), 2.3, 0.0), 4, {"epoch": 0, **metrics}) as display:
        assert len(list(display.steps([torch.zeros(1)] * 3))) == 3
        display.epoch({"epoch": 1, **metrics})
    assert "epoch 0 of 4" in file.getvalue()
    assert display.latest["epoch"] == 1


def test_rows_know_their_number():
    assert len(Rows(torch.zeros(3, 2), torch.zeros(3))) == 3
