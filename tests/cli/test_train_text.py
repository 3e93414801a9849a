"""`xent train text` and `xent train xor` as a user meets them; what all recipes share is tested with digits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_command_line import HEAVY, XENT
from tests.inspection.watching.test_watch import records
from xent.cli import main

COMMAND = ["train", "text"]
SMALL = ["--features", "8", "--hidden", "8", "--threads", "1", "--epochs", "2", "--no-watch"]
QUICK = [*COMMAND, "--data", "texts.csv", *SMALL]


@pytest.fixture(autouse=True)
def in_a_directory_with_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    rows = [("isda at kanin", "pagkain"), ("bahay sa ilog [bold]", "pook")] * 30
    Path("texts.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    Path("bad.csv").write_text(Path("texts.csv").read_text() + "ragged\nx,\n")
    Path("bytes.tsv").write_bytes(b"text\tlabel\na\tx\nb\xff\ty\n")
    Path("label.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    Path("empty.parquet").touch()
    Path("one.csv").write_text("text,label\na,x\nb,x\n")


@pytest.mark.parametrize("recipe", ["text", "xor"])
def test_help_at_once_with_examples(recipe: str):
    call = f"main(['train', {recipe!r}, '--help'])"
    code = f"import sys; from xent.cli import main; {call}; print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not (HEAVY | {"pyarrow", "spacy"}) & {name.partition(".")[0] for name in result.stderr.split()}
    assert f"xent train {recipe}" in result.stdout
    assert "Examples:" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


WRONG = {
    "missing file": ([*COMMAND, "--data", "nowhere.csv"], 2, "nowhere.csv does not exist"),
    "another ending": ([*COMMAND, "--data", "texts.xls"], 2, "the ending says how a table is read"),
    "wrong column": ([*QUICK, "--text-column", "body"], 2, "texts.csv has no column 'body'; its columns are ['text'"),
    "bad row": ([*COMMAND, "--data", "bad.csv"], 1, "bad.csv, row 62: 1 cell under 2 columns; "),
    "bytes": (
        [*COMMAND, "--data", "bytes.tsv"],
        1,
        "bytes.tsv, row 3: byte 1 of text is 0xff, which is no UTF-8 there",
    ),
    "no label": (
        [*COMMAND, "--data", "label.jsonl"],
        1,
        "label.jsonl, row 2: label is missing; every row needs its text",
    ),
    "empty file": ([*COMMAND, "--data", "empty.parquet"], 1, "empty.parquet is empty (0 bytes)"),
    "one class": ([*COMMAND, "--data", "one.csv"], 1, "only one class: all 2 rows are 'x'"),
    "no tokens": (
        [*QUICK, "--text-column", "label", "--label-column", "text", "--max-tokens", "0"],
        2,
        "max_tokens is 0",
    ),
    "columns without data": ([*COMMAND, "--skip-bad"], 2, "pass --data with its path"),
    "no stop words": ([*QUICK, "--stop-words", "nowhere"], 2, "nowhere, which is no file; it must hold a word a line"),
    "features of vectors": ([*QUICK, "--vectors", "x"], 2, "leave --features or --vectors out"),
    "no pipeline": ([*COMMAND, "--data", "texts.csv", "--vectors", "xx_no"], 1, "python -m spacy download xx_no"),
    "no processes": ([*COMMAND, "--processes", "0"], 2, "processes is 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_one_line(case: str, capfd: pytest.CaptureFixture[str]):
    arguments, status, sentence = WRONG[case]
    assert main(arguments) == status
    out, err = capfd.readouterr()
    assert sentence in err
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("runs").exists()
    assert not [path for path in Path("cache").rglob("*") if path.is_file()]


def test_a_run_fits_80_columns_and_counts_what_it_left_out(capfd: pytest.CaptureFixture[str]):
    assert main([*QUICK[:2], "--data", "bad.csv", *SMALL, "--skip-bad", "--class-weights"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "left out   2 bad rows: 1 × not as many cells as columns, 1 × no label; first row 62: 1 cell under" in out
    table = out[out.index("── train") :].splitlines()
    assert max(map(len, table)) <= 80
    assert "macro-F1" in out
    assert "○ validation   " in out  # in one line with its numbers
    assert "   weighted\n" in out
    assert "0.6931 = ln 2, guessing" in out
    assert main([*QUICK[:2], "--resume", "runs/text-1", "--epochs", "3", "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["epoch"], summary["epochs_trained"]) == (3, 1)
    assert summary["data"]["skipped"] == {"not as many cells as columns": 1, "no label": 1}
    assert summary["validation"]["macro_f1"] <= 1


@pytest.mark.slow
def test_ctrl_c_while_texts_are_read_leaves_nothing():
    Path("long.csv").write_text("text,label\n" + "".join(f"{'isda at kanin ' * 40},{n % 2}\n" for n in range(60_000)))
    process = subprocess.Popen([*XENT, *COMMAND, "--data", "long.csv", *SMALL], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path("cache").rglob("tokens.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "xent: stopped; nothing was begun\n"
    assert [path for path in Path("cache").rglob("*") if path.is_file()] == []
    assert not Path("runs").exists()


def test_records_name_the_classes_and_hold_the_worst_texts(capfd: pytest.CaptureFixture[str]):
    watched = [argument for argument in QUICK if argument != "--no-watch"]
    assert main([*watched, "--out", "watched"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "report     watched/report.html"
    assert Path("watched/report.html").stat().st_size > 10_000
    assert main([*QUICK, "--out", "plain"]) == 0
    assert "report" not in capfd.readouterr().out
    for name in ("model.safetensors", "metrics.jsonl", "checkpoint"):
        assert Path("watched", name).read_bytes() == Path("plain", name).read_bytes()
    assert not Path("plain/records.jsonl").exists()
    found = [record for record in records(Path("watched/records.jsonl")) if record.get("split") == "validation"]
    (classes,) = [record["classes"] for record in found if record["kind"] == "classes"]
    (worst,) = [record["rows"] for record in found if record["kind"] == "worst_rows"]
    assert [each["name"] for each in classes] == ["pagkain", "pook"]
    assert sum(each["count"] for each in classes) == 6
    texts = {"pagkain": "isda at kanin", "pook": "bahay sa ilog [ bold ]"}
    assert all(row["text"] == texts[row["target_name"]] for row in worst)
    assert [row["loss"] for row in worst] == sorted((row["loss"] for row in worst), reverse=True)


def test_explain_reads_a_run(capfd: pytest.CaptureFixture[str]):
    assert main([*QUICK, "--out", "run"]) == 0
    metrics = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["validation"]
    capfd.readouterr()
    assert main(["explain", "run"]) == 0
    out, _ = capfd.readouterr()
    assert f"{metrics['loss']:.4f}"[:5] in out
    assert "worst texts\n  p" in out
    assert "    bahay sa ilog [ bold ]\n" in out
    assert main(["train", "xor", "--epochs", "1", "--no-watch", "--out", "xor"]) == 0
    assert main(["explain", "xor"]) == 2
    assert "xor is a run of xor; runs of digits, text, language_model are explained" in capfd.readouterr().err


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch():
    """The run ends with the bytes of one that nothing stopped."""
    options = QUICK[:-3]  # the last are --epochs 2 --no-watch: here it is watched, as it is by default
    process = subprocess.Popen([*XENT, *options, "--epochs", "100000", "--out", "killed"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    metrics = Path("killed/metrics.jsonl")
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    epochs = str(json.loads(metrics.read_text().splitlines()[-1])["epoch"] + 2)
    assert main([*COMMAND, "--resume", "killed", "--epochs", epochs]) == 0
    assert main([*options, "--epochs", epochs, "--out", "whole"]) == 0
    for name in ("model.safetensors", "metrics.jsonl", "checkpoint"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()


TRAINS_IN_LITTLE = """
import re, sys
from pathlib import Path
import pyarrow.csv
from xent.cli import main
from xent.recipes import text, text_runs

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

small = ["--features", "8", "--hidden", "8", "--threads", "1", "--epochs", "1", "--max-tokens", "5", "--no-watch"]
assert main(["train", "text", "--data", "texts.csv", *small]) == 0
before = peak()
assert main(["train", "text", "--data", sys.argv[1], *small, "--batch-size", "512"]) == 0
print("grown by", peak() - before)
"""


@pytest.mark.slow
def test_memory_of_a_training_does_not_follow_the_file():
    """One that held the file would grow by 150 MiB or more from the first to the second; an allocator's heap, by 20.

    What both take is what PyArrow reads ahead, a few blocks of 4 MiB, and what Python's heap keeps of their texts.
    """
    grown = {megabytes: memory_of_a_training(megabytes) for megabytes in (150, 300)}
    assert grown[300] - grown[150] < 60 << 20, grown
    assert grown[300] < 250 << 20, grown  # less than the file


def memory_of_a_training(megabytes: int) -> int:
    """Bytes by which the peak of a process that has trained before grows when it trains on a file of that size."""
    line = "isda" * 20 + " kanin" * 10
    text = " ".join([line] * (10_000 // len(line)))
    with Path("large.csv").open("w") as file:
        file.write("text,label\n")
        while file.tell() < megabytes << 20:
            file.writelines(f"{label} {text},{label}\n" for label in ("a", "b") * 100)
    arguments = [sys.executable, "-c", TRAINS_IN_LITTLE, "large.csv"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=True)
    Path("large.csv").unlink()  # pytest keeps what its last runs wrote
    return int(done.stdout.split()[-1])


def test_xor_shows_both_ways_side_by_side(capfd: pytest.CaptureFixture[str]):
    assert main(["train", "xor", "--sigmoid-before-loss", "--no-watch"]) == 0
    out, _ = capfd.readouterr()
    assert "0.5032 = least loss of a sigmoid before the loss · 0.6931 = ln 2, guessing" in out
    assert "from logits   sigmoid before loss" in out
    assert "doctor     sigmoid-twice:" in out
    assert main(["train", "xor", "--json", "--no-watch"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert [corner["p"] > 0.5 for corner in summary["corners"]] == [False, True, True, False]
    assert "comparison" not in summary
