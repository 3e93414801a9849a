"""`xent explain` as a user meets it: files of every kind, a trained run, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xent.cli import main

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
TARGETS = torch.tensor([0, 2])


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def written(suffix: str) -> list[str]:
    """--logits and --targets in files of one kind."""
    tensors = {"logits": LOGITS, "targets": TARGETS}
    if suffix == ".safetensors":
        save_file(tensors, "both.safetensors")
        return ["--logits", "both.safetensors:logits", "--targets", "both.safetensors:targets"]
    for name, tensor in tensors.items():
        path = Path(name + suffix)
        if suffix == ".json":
            path.write_text(json.dumps(tensor.tolist()))
        elif suffix == ".npy":
            np.save(path, tensor.numpy())
        else:
            _write_table(path, tensor.reshape(2, -1).tolist())
    return ["--logits", f"logits{suffix}", "--targets", f"targets{suffix}"]


def _write_table(path: Path, rows: list[list[float]]) -> None:
    arrow = pytest.importorskip("pyarrow")
    names = ["cat", "dog", "owl"][: len(rows[0])]
    table = arrow.table({name: [row[place] for row in rows] for place, name in enumerate(names)})
    if path.suffix == ".csv":
        pytest.importorskip("pyarrow.csv").write_csv(table, path)
    else:
        pytest.importorskip("pyarrow.parquet").write_table(table, path)


@pytest.mark.parametrize("suffix", [".json", ".npy", ".safetensors", ".csv", ".parquet"])
def test_files_of_every_kind(capfd, suffix):
    assert main(["explain", *written(suffix)]) == 0
    shown = capfd.readouterr().out
    assert "mean over 2 rows · 3 classes" in shown
    assert "1.7213 ÷ 2 rows = 0.8606" in " ".join(shown.split())
    assert "equal (0 ulp)" in shown
    assert ("owl" in shown) == (suffix in (".csv", ".parquet"))


def test_a_table_without_a_header(capfd):
    pytest.importorskip("pyarrow")
    Path("l.csv").write_text("2,0,-1\n0,1,0\n")
    Path("t.csv").write_text("0\n2\n")
    assert main(["explain", "--logits", "l.csv", "--targets", "t.csv", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["value"] == pytest.approx(0.8606453667)


@pytest.mark.parametrize(
    ("text", "words"),
    [(",cat,dog\n0,2,0\n1,0,1\n", "t.csv has a column without a name beside cat, dog"),
     ("cat;dog\n2;0\n", "t.csv has one column, 'cat;dog'; commas separate columns: replace each ';' by a comma"),
     ("cat,dog\n", "t.csv has no rows"), ("cat,dog\n2,\n0,x\n", "t.csv holds empty cells, text or lists")],
    ids=["a frame's index", "semicolons", "a header alone", "a gap"],
)  # fmt: skip
def test_a_table_that_is_no_tensor(capfd, text, words):
    """The index of a frame was taken for a class: its numbers became logits."""
    pytest.importorskip("pyarrow")
    Path("t.csv").write_text(text)
    Path("y.json").write_text("[0, 1]")
    assert main(["explain", "--logits", "t.csv", "--targets", "y.json"]) == 1
    assert words in capfd.readouterr().err


def test_one_row(capfd):
    np.save("one.npy", LOGITS[0].numpy())
    np.save("target.npy", np.array(0))
    assert main(["explain", "--logits", "one.npy", "--targets", "target.npy", "-n", "1"]) == 0
    shown = capfd.readouterr().out
    assert "mean over 1 row · 3 classes" in shown
    assert "the worst 1 of 1 rows" in shown  # -n alone lists rows


def test_options_and_listed_rows(capfd):
    files = written(".json")
    assert (
        main(["explain", *files, "--label-smoothing", "0.1", "--reduction", "sum", "--order", "best", "-n", "1"]) == 0
    )
    shown = " ".join(capfd.readouterr().out.split())
    assert "label_smoothing=0.1" in shown
    assert "sum over 2 rows" in shown
    assert "the best 1 of 2 rows" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--logits", "logits.json"], 2, "no --targets"),
        ([], 2, "no --logits and --targets"),
        (["--logits", "nix.npy", "--targets", "targets.json"], 2, "nix.npy: No such file"),
        (["--logits", "logits.txt", "--targets", "targets.json"], 2, "its suffix must be one of .json, .npy"),
        (["--logits", "logits.json:q", "--targets", "targets.json"], 2, "holds one tensor, without a name"),
        (["--logits", "ragged.json", "--targets", "targets.json"], 1, "lists are of different lengths"),
        (["--logits", "damaged.npy", "--targets", "targets.json"], 1, "damaged.npy can't be read"),
        (
            ["--logits", "words.json", "--targets", "targets.json"],
            1,
            "words.json holds text; logits and targets are numbers",
        ),
        (["--logits", "logits.json", "--targets", "logits.json", "--reduction", "avg"], 2, "reduction='avg'"),
        (["--logits", "targets.json", "--targets", "logits.json"], 1, "target has shape (2, 3)"),
        (["runs/none"], 2, "run is runs/none, which does not exist"),
        (["runs/none", "--html", "page.pdf"], 2, "pass such as page.html"),
        (["--logits", "logits.json", "--targets", "targets.json", "--html", "none/page.html"], 2, "none is no folder"),
        (["runs/none", "--logits", "logits.json"], 2, "pass one of the two"),
        (["runs/none", "--label-smoothing", "0.1"], 2, "a run (runs/none) and --label-smoothing"),
        (["runs/none", "--kind", "nll_loss"], 2, "a run (runs/none) and --kind"),
        (
            ["--logits", "logits.json", "--targets", "logits.json", "--kind", "binary_cross_entropy", "--dim", "0"],
            2,
            "dim for kind='binary_cross_entropy'",
        ),
        (["--logits", "logits.json", "--targets", "gaps.json"], 1, "gaps.json holds empty cells, text or lists"),
    ],
)
def test_a_mistake_is_one_line(capfd, arguments, status, words):
    written(".json")
    Path("ragged.json").write_text("[[1, 2], [3]]")
    Path("gaps.json").write_text("[0, null]")
    Path("words.json").write_text('["a", "b"]')
    Path("damaged.npy").write_bytes(b"\x93NUMPY nothing")
    assert main(["explain", *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_run_of_digits(capfd):
    assert main(["train", "digits", "--epochs", "1", "--hidden", "8"]) == 0
    before = {path: path.read_bytes() for path in Path("runs/digits-1").iterdir()}
    last = json.loads(Path("runs/digits-1/metrics.jsonl").read_text().splitlines()[-1])
    capfd.readouterr()
    assert main(["explain", "runs/digits-1"]) == 0
    shown = capfd.readouterr().out
    assert "mean over 359 rows · 10 classes" in shown
    for words in ("worst rows", "best rows", "random rows", "██"):
        assert words in shown
    assert main(["explain", "runs/digits-1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["value"] == pytest.approx(last["validation"]["loss"], rel=1e-6)
    assert before == {path: path.read_bytes() for path in Path("runs/digits-1").iterdir()}


def test_a_run_of_a_language_model_and_its_page(capfd):
    Path("book.txt").write_text("It was the best of times, <b>it</b> was the worst of times.\n" * 120)
    options = ["--epochs", "1", "--steps", "2", "--features", "8", "--layers", "1", "--context", "32"]
    assert main(["train", "language_model", "--data", "book.txt", *options]) == 0
    before = {path: path.read_bytes() for path in Path("runs/language_model-1").iterdir()}
    last = json.loads(Path("runs/language_model-1/metrics.jsonl").read_text().splitlines()[-1])
    capfd.readouterr()
    assert main(["explain", "runs/language_model-1", "--html", "page.html", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["value"] == pytest.approx(last["validation"]["loss"], rel=1e-6)
    page = Path("page.html").read_text("utf-8")
    assert "was␣the␣" in page
    assert "<b>it" not in page
    assert main(["explain", "runs/language_model-1"]) == 0
    shown = capfd.readouterr().out
    for words in ("worst tokens", "best tokens", "random tokens", "was␣the"):
        assert words in shown
    assert before == {path: path.read_bytes() for path in Path("runs/language_model-1").iterdir()}


def test_a_page_of_files_and_of_digits(capfd):
    assert main(["explain", *written(".json"), "--html", "files.html"]) == 0
    assert capfd.readouterr().out.endswith("page       files.html\n")
    assert "0.8606" in Path("files.html").read_text("utf-8")
    assert main(["train", "digits", "--epochs", "1", "--hidden", "8"]) == 0
    assert main(["explain", "runs/digits-1", "--html", "digits.html"]) == 0
    assert '"image":{"side":8,"hex":"' in Path("digits.html").read_text("utf-8")


def test_help_has_an_example(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["explain", "--help"]) == 0
    shown = capfd.readouterr().out
    assert "xent explain --logits logits.npy --targets labels.json" in shown
    assert max(map(len, shown.splitlines())) <= 80
