"""Going on after any interruption, with the same result to the last bit."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes.test_digits import MNIST, fingerprints, finish, mnist_like, run
from xent.errors import OptionError, RunError
from xent.recipes import digits_runs
from xent.recipes._checkpoint import read_checkpoint
from xent.recipes._runs import version_notes
from xent.recipes.digits_config import DigitsConfig

ADAM = DigitsConfig(epochs=4, hidden=8, optimizer="adam")  # Adam, because it has the most state to lose


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ADAM that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(ADAM, out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


class Stopped(BaseException):
    """What no handler of errors catches."""


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Stop at the n-th time the disk is asked to keep or rename something."""
    calls = iter(range(10_000))

    def guarded(original):
        def stopping(*arguments, **options):
            if next(calls) == call:
                raise Stopped
            return original(*arguments, **options)

        return stopping

    monkeypatch.setattr(os, "fsync", guarded(os.fsync))
    monkeypatch.setattr(Path, "replace", guarded(Path.replace))


@pytest.mark.slow
def test_a_stop_at_every_write_of_an_epoch(tmp_path: Path, whole: Path):
    num_calls = 0
    while True:
        out = tmp_path / str(num_calls)
        learner, directory = digits_runs.begin(ADAM, out)
        with pytest.MonkeyPatch.context() as monkeypatch:
            # 9 calls per epoch: a fsync for the line; fsync, rename, fsync for the model; one rename more for the
            # checkpoint. From the second epoch on there is a checkpoint.previous.
            stop_at(monkeypatch, num_calls)
            try:
                finish(learner, directory)
            except Stopped:
                pass
            else:
                break
        finish(*digits_runs.resume(out))
        assert fingerprints(out) == fingerprints(whole), f"stopped at call {num_calls}"
        num_calls += 1
        if num_calls == 20:  # two epochs and a bit: from there it repeats
            break
    assert num_calls == 20


KILL_OFTEN = """
import os, random, signal, sys, time
from pathlib import Path
from xent.cli import main
from xent.recipes import digits
from xent.recipes._run_directory import RunDirectory
from xent.recipes._threads import torch_threads
from xent.recipes.digits_config import DigitsConfig
import xent.recipes.digits_runs

# Load here all that loads on first use, since each attempt is a fork of this process; on one thread, because a fork
# inherits no other.
with torch_threads(1):
    digits.build(DigitsConfig())

out, num_kills = Path(sys.argv[1]), int(sys.argv[2])
random.seed(int(sys.argv[3]))
metrics = out / "metrics.jsonl"

def stops_after(epochs):
    # However late the kill comes: five epochs an attempt leave some for the last, which nobody kills.
    original, left = RunDirectory.append_metrics, iter(range(epochs))
    def append_metrics(self, record):
        return signal.pause() if next(left, None) is None else original(self, record)
    RunDirectory.append_metrics = append_metrics

def attempt(kill):
    resume = ["--resume", str(out)] if out.exists() else sys.argv[4:] + ["--out", str(out)]
    before = metrics.stat().st_size if metrics.exists() else 0
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if kill:
            stops_after(5)
        os._exit(main(["train", "digits", *resume]))
    if kill:
        deadline = time.monotonic() + 60
        while not metrics.exists() or metrics.stat().st_size <= before:
            if time.monotonic() > deadline or os.waitpid(child, os.WNOHANG)[0]:
                sys.exit("the attempt made no progress")
            time.sleep(0.001)
        time.sleep(random.random() * 0.04)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

killed = sum(attempt(kill=True) == signal.SIGKILL for _ in range(num_kills))
print(killed, attempt(kill=False))
"""


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_kill_9_at_random_moments(tmp_path: Path, optimizer):
    config = DigitsConfig(epochs=40, hidden=8, optimizer=optimizer)
    run(config, tmp_path / "whole")
    options = ["--epochs", "40", "--hidden", "8", "--optimizer", optimizer]
    arguments = [str(tmp_path / "killed"), "6", "1", *options]
    result = subprocess.run(
        [sys.executable, "-c", KILL_OFTEN, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.stdout == "6 0\n", result.stderr
    assert fingerprints(tmp_path / "killed") == fingerprints(tmp_path / "whole")


def test_a_longer_run_is_the_run_that_was_longer_from_the_start(copy: Path, tmp_path: Path):
    finish(*digits_runs.resume(copy, {"epochs": 6}))
    run(DigitsConfig(epochs=6, hidden=8, optimizer="adam"), tmp_path / "longer")
    assert fingerprints(copy) == fingerprints(tmp_path / "longer")


def test_a_finished_run_stays_as_it_is(copy: Path, whole: Path):
    finish(*digits_runs.resume(copy))
    assert fingerprints(copy) == fingerprints(whole)


def test_a_stop_between_the_two_renames_of_a_checkpoint(copy: Path, whole: Path):
    (copy / "checkpoint").unlink()
    learner, directory = digits_runs.resume(copy)
    assert learner.epoch == 3
    finish(learner, directory)
    assert fingerprints(copy) == fingerprints(whole)


def test_a_torn_line_is_cut_off(copy: Path, whole: Path):
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 5, "tra')
    finish(*digits_runs.resume(copy))
    assert fingerprints(copy) == fingerprints(whole)


def test_a_lost_model_is_written_again(copy: Path, whole: Path):
    (copy / "model.safetensors").unlink()
    finish(*digits_runs.resume(copy))
    assert fingerprints(copy) == fingerprints(whole)


def option(text: bytes):
    """Give an option of config.json another value."""
    name = text.partition(b":")[0]
    return lambda content: re.sub(rb"%b: [^,\n]*" % name, text, content, count=1)


def entry(name: str, value: object):
    """Give an entry of config.json another value."""
    return lambda content: json.dumps({**json.loads(content), name: value}).encode()


def change(path: Path, how) -> None:
    path.write_bytes(how(path.read_bytes()))


DAMAGES = {
    "checkpoint cut": (
        "checkpoint",
        lambda content: content[:-1],
        "damaged .its checksum .* mv .*previous .*checkpoint",
    ),
    "checkpoint flipped": ("checkpoint", lambda content: content[:999] + b"?" + content[1000:], "go on from epoch 3"),
    "checkpoint empty": ("checkpoint", lambda content: b"", "its header is gone"),
    "checkpoint a pickle": ("checkpoint", lambda content: b"\x80\x02cos\nsystem\n", "its header is gone"),
    "metrics cut": ("metrics.jsonl", lambda content: content[:-2], "metrics.jsonl is damaged"),
    "metrics edited": ("metrics.jsonl", lambda content: b"?" + content[1:], "metrics.jsonl is damaged"),
    "metrics doubled": ("metrics.jsonl", lambda content: content[: len(content) // 4] * 9, "metrics.jsonl is damaged"),
    "config cut": ("config.json", lambda content: content[:-9], r"config\.json is damaged"),
    "config not text": ("config.json", lambda content: b"\xff\xfe\x00", r"config\.json is damaged"),
    "config edited": ("config.json", lambda content: content.replace(b'"seed": 0', b'"seed": 1'), "does not belong to"),
    "config unknown option": ("config.json", lambda content: content.replace(b'"seed"', b'"sead"'), "is damaged"),
    "metrics without bits": ("metrics.jsonl", lambda content: content.replace(b'"bits"', b'"bitz"'), "is damaged"),
    "metrics no number": (
        "metrics.jsonl",
        lambda content: re.sub(rb'"loss": [0-9.]{3}', b'"loss": NaN', content),
        "is damaged",
    ),
    "metrics nested": ("metrics.jsonl", lambda content: b"[" * len(content), "is damaged"),
    "config nested": ("config.json", lambda content: b'{"a":' * 99_999, r"config\.json is damaged \(maximum recursion"),
    "config hidden a float": ("config.json", option(b'"hidden": 50.5'), r"\(hidden is 50.5; it must be a whole number"),
    "config hidden a bool": ("config.json", option(b'"hidden": true'), "hidden is True; it must be a whole number"),
    "config seed a float": ("config.json", option(b'"seed": 1.5'), "seed is 1.5; it must be a whole number"),
    "config seed a string": ("config.json", option(b'"seed": "x"'), "seed is 'x'; it must be a whole number"),
    "config path a number": ("config.json", option(b'"data": 5'), "data is 5; it must be a path"),
    "config lr a string": ("config.json", option(b'"lr": "fast"'), "lr is 'fast'; it must be a number"),
    "config format": ("config.json", entry("xent_run", 99), "format 99; this version of xent reads format 1: go on wi"),
    "config recipe null": ("config.json", entry("recipe", None), r"damaged \(recipe is None\)"),
    "config data a string": ("config.json", entry("data", "x"), r"damaged \(data is 'x'\)"),
    "config data null": ("config.json", entry("data", None), r"damaged \(data is None\)"),
    "config versions a list": ("config.json", entry("versions", []), r"damaged \(versions is \[\]\)"),
    "config versions null": ("config.json", entry("versions", None), r"damaged \(versions is None\)"),
    "config options a list": ("config.json", entry("options", [1]), r"damaged \(options is \[1\]\)"),
    "config data": ("config.json", lambda content: content.replace(b'"sha256": "', b'"sha256": "0'), "SHA-256 differs"),
}


@pytest.mark.parametrize(("name", "how", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_and_left_as_it_is(copy: Path, name, how, sentence):
    change(copy / name, how)
    before = fingerprints(copy)
    with pytest.raises(RunError, match=sentence):
        digits_runs.resume(copy)
    assert fingerprints(copy) == before


def test_the_advice_for_a_damaged_checkpoint_works(copy: Path, whole: Path):
    change(copy / "checkpoint", lambda content: content[:-1])
    (copy / "checkpoint.previous").rename(copy / "checkpoint")
    finish(*digits_runs.resume(copy))
    assert fingerprints(copy) == fingerprints(whole)


def test_no_checkpoint_at_all(copy: Path):
    (copy / "checkpoint").unlink()
    (copy / "checkpoint.previous").unlink()
    with pytest.raises(RunError, match="checkpoint is missing"):
        digits_runs.resume(copy)


def test_a_metrics_file_that_is_gone(copy: Path):
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="No such file"):
        digits_runs.resume(copy)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no config.json"),
        ("[1]", "was not written by xent train"),
        ('{"model_type": "bert"}', "was not written by xent train"),
    ],
)
def test_a_foreign_directory(tmp_path: Path, content, sentence):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(OptionError, match=sentence):
        digits_runs.resume(tmp_path)


def test_a_run_of_another_recipe(copy: Path):
    change(copy / "config.json", lambda content: content.replace(b'"recipe": "digits"', b'"recipe": "xor"'))
    with pytest.raises(OptionError, match=r"is a run of the recipe xor; .*: xent train xor --resume"):
        digits_runs.resume(copy)


def test_other_data_than_the_run_began_with(tmp_path: Path):
    mnist_like(tmp_path / "data", "t10k", 50)
    run(DigitsConfig(epochs=1, data=str(tmp_path / "data")), tmp_path / "run")
    (tmp_path / "data").rename(tmp_path / "moved")
    finish(*digits_runs.resume(tmp_path / "run", {"data": str(tmp_path / "moved")}))
    mnist_like(tmp_path / "moved", "t10k", 60)
    with pytest.raises(RunError, match=r"is not the data that .* began with"):
        digits_runs.resume(tmp_path / "run")


def test_a_data_directory_whose_name_is_no_utf8(tmp_path: Path):
    data = tmp_path / os.fsdecode(b"\xff")
    mnist_like(data, "t10k", 50)
    run(DigitsConfig(epochs=1, data=data), tmp_path / "run")
    finish(*digits_runs.resume(tmp_path / "run", {"epochs": 2}))


def test_options_stay_what_they_were(copy: Path):
    finish(*digits_runs.resume(copy, {"hidden": 8}))
    with pytest.raises(
        OptionError, match=r"hidden is 9 but .* began with 8; a run keeps its options: leave --hidden out"
    ):
        digits_runs.resume(copy, {"hidden": 9})
    with pytest.raises(OptionError, match=r"epochs is 2 but .* has 4 behind it"):
        digits_runs.resume(copy, {"epochs": 2})


def test_one_writer_at_a_time(copy: Path):
    learner, directory = digits_runs.resume(copy, {"epochs": 5})
    with pytest.raises(RunError, match="is being written already"):
        digits_runs.resume(copy)
    finish(learner, directory)


def test_a_full_disk_leaves_the_earlier_checkpoint(copy: Path, tmp_path: Path):
    learner, directory = digits_runs.resume(copy, {"epochs": 6})
    before = fingerprints(copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = (copy / "model.safetensors").stat().st_size  # for the model, not for the checkpoint
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(
            RunError, match=r"checkpoint can't be written .*: make room or allow writing, then xent train di"
        ):
            finish(learner, directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = fingerprints(copy)
    assert after.keys() == before.keys()  # no temporary file
    assert after["checkpoint"] == before["checkpoint"]
    assert read_checkpoint(copy / "checkpoint").epoch == 4
    finish(*digits_runs.resume(copy))
    run(DigitsConfig(epochs=6, hidden=8, optimizer="adam"), tmp_path / "longer")
    assert fingerprints(copy) == fingerprints(tmp_path / "longer")


def test_a_line_that_does_not_fit_is_taken_back(copy: Path):
    learner, directory = digits_runs.resume(copy, {"epochs": 6})
    before = (copy / "metrics.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 9, hard))
    try:
        with pytest.raises(RunError, match=r"metrics\.jsonl can't be written"):
            finish(learner, directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(RunError, match=r"can't be written .*nothing was left behind"):
            digits_runs.begin(ADAM, tmp_path / "runs" / "x")
        (tmp_path / "empty").mkdir()
        with pytest.raises(RunError, match="can't be written"):
            digits_runs.begin(ADAM, tmp_path / "empty")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "runs").iterdir())
    assert not list((tmp_path / "empty").iterdir())


def test_an_empty_directory_may_be_given(tmp_path: Path, whole: Path):
    (tmp_path / "empty").mkdir()
    run(ADAM, tmp_path / "empty")
    assert fingerprints(tmp_path / "empty") == fingerprints(whole)


def test_names_count_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        _, directory = digits_runs.begin(ADAM)
        directory.close()
        assert directory.path == Path(f"runs/digits-{number}")


def test_versions_that_differ_are_noted(copy: Path):
    config = json.loads((copy / "config.json").read_text())
    config["versions"]["torch"] = "1.0"
    (copy / "config.json").write_text(json.dumps(config))
    learner, directory = digits_runs.resume(copy)
    assert version_notes(directory)[0].startswith("the run began with torch 1.0, this is ")
    finish(learner, directory)


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"the MNIST sample is not here ({MNIST})")
def test_resume_on_the_mnist_sample(tmp_path: Path):
    config = DigitsConfig(epochs=2, data=str(MNIST), hidden=8, batch_size=500)
    run(config, tmp_path / "whole")
    run(DigitsConfig(epochs=1, data=str(MNIST), hidden=8, batch_size=500), tmp_path / "half")
    finish(*digits_runs.resume(tmp_path / "half", {"epochs": 2}))
    assert fingerprints(tmp_path / "half") == fingerprints(tmp_path / "whole")
