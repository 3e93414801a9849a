"""Are rows with saved logits, and those of runs, scored as what they are?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xent.cli._main import run


def _saved(folder: Path, suffix: str, logits: torch.Tensor, targets: torch.Tensor) -> list[str]:
    path = folder / f"saved{suffix}"
    if suffix == ".safetensors":
        save_file({"logits": logits, "targets": targets}, path)
        return ["--logits", f"{path}:logits", "--targets", f"{path}:targets"]
    if suffix == ".pt":
        torch.save({"logits": logits, "targets": targets}, path)
        return ["--logits", f"{path}:logits", "--targets", f"{path}:targets"]
    np.save(path, logits.numpy())
    np.save(folder / "targets.npy", targets.numpy())
    return ["--logits", str(path), "--targets", str(folder / "targets.npy")]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
@pytest.mark.parametrize("shape", [(7,), (2, 5)])
def test_every_row(suffix: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from xent.scoring import score

    monkeypatch.setattr(score, "ROW_SHARD", 3)  # ends inside a sequence
    logits, targets = torch.randn(*shape, 11) * 3, torch.randint(11, shape)
    targets[0] = -100
    out = tmp_path / "scores.jsonl"
    command = ["score", *_saved(tmp_path, suffix, logits, targets), "--out", str(out), "--json"]
    assert run(command) == 0
    totals = json.loads(capsys.readouterr().out)
    log_p = logits.double().log_softmax(-1).flatten(0, -2)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == len(log_p)
    for place, (row, predicted, target) in enumerate(zip(rows, log_p, targets.flatten().tolist(), strict=True)):
        assert (row["row"], row["position"]) == ((place, None) if len(shape) == 1 else divmod(place, shape[1]))
        if target == -100:
            assert row["nats"] is row["rank"] is None
            continue
        assert row["nats"] == pytest.approx(-predicted[target].item(), abs=1e-5)
        assert row["rank"] == 1 + int((predicted > predicted[target]).sum())
        assert row["entropy"] == pytest.approx(-(predicted.exp() * predicted).sum().item(), abs=1e-5)
    counted = targets.flatten() != -100
    assert totals["tokens"] == int(counted.sum())
    nats = -log_p[counted].gather(1, targets.flatten()[counted].unsqueeze(1)).sum().item()
    assert totals["perplexity"] == pytest.approx(math.exp(nats / totals["tokens"]), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z, y: z[3].fill_(math.nan), "row 3: its logits are NaN"),
        (lambda z, y: z[4, y[4]].fill_(-math.inf), "row 4: its target has no probability at all"),
    ],
)
def test_a_bad_row_is_named_or_skipped(change: Any, said: str, tmp_path: Path, capsys: Any) -> None:
    logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
    change(logits, targets)
    out = tmp_path / "scores.jsonl"
    command = ["score", *_saved(tmp_path, ".npy", logits, targets), "--out", str(out)]
    assert run(command) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()
    assert not (tmp_path / "scores.jsonl.parts").exists()
    assert run([*command, "--skip-bad", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert (totals["tokens"], totals["skipped"]) == (5, 1)
    assert said in totals["faults"][0]


def test_what_does_not_fit_is_said_in_one_line(tmp_path: Path, capsys: Any) -> None:
    logits, targets = torch.randn(6, 5), torch.randint(5, (6,))
    for changed, said in (
        ((logits, targets[:5]), "logits of shape (6, 5) and targets of shape (5,)"),
        ((logits, targets + 4), "of 5 classes"),
        ((logits.long(), targets), "logits are floating point"),
        ((logits, targets + 0.5), "holds fractions"),
    ):
        assert run(["score", *_saved(tmp_path, ".npy", *changed)]) in (1, 2)
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    assert run(["score", "--logits", str(tmp_path / "bad.npy"), "--targets", str(tmp_path / "targets.npy")]) == 1
    assert "can't be read" in capsys.readouterr().err


def test_runs_are_scored_with_their_own_rows(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = "".join(f"row {number % 7} of {number % 5}\n" for number in range(400))
    Path("book.txt").write_text(text)
    small = ["--tokens", "char", "--features", "8", "--layers", "1", "--context", "16", "--steps", "2", "--epochs", "1"]
    assert run(["train", "language_model", "--data", "book.txt", *small, "--sample", "0", "--out", "lm"]) == 0
    capsys.readouterr()
    assert run(["score", "lm", "--json", "--html", "lm.html"]) == 0
    own = json.loads(capsys.readouterr().out)
    metrics = [json.loads(line) for line in Path("lm/metrics.jsonl").read_text().splitlines()]
    # The run measures disjoint windows of 15 tokens; here they are of 16, so that the loss is near and not the same.
    assert own["nats_per_token"] == pytest.approx(metrics[-1]["validation"]["loss"], rel=0.02)
    assert own["bytes"] == own["tokens"] + own["unscored"]
    assert run(["score", "lm", "book.txt", "--stride", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == len(text) - 1
    assert run(["train", "digits", "--epochs", "1", "--out", "d"]) == 0
    capsys.readouterr()
    assert run(["score", "d", "--json"]) == 0
    metrics = [json.loads(line) for line in Path("d/metrics.jsonl").read_text().splitlines()]
    totals = json.loads(capsys.readouterr().out)
    assert totals["nats_per_token"] == pytest.approx(metrics[-1]["validation"]["loss"], rel=1e-6)
    assert totals["accuracy"] == pytest.approx(metrics[-1]["validation"]["accuracy"], abs=1e-9)


@pytest.mark.parametrize("tokens", ["byte", "char", "bpe"])
def test_a_run_reads_empty_texts_and_the_tokens_of_a_text_are_the_text(
    tokens: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    if tokens == "bpe":
        pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    texts = ["", "a", "né 😀\n", "é"]
    Path("book.txt").write_text("a né 😀\n" * 100, "utf-8")
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    small = ["--features", "8", "--layers", "1", "--context", "16", "--steps", "1", "--epochs", "1", "--sample", "0"]
    assert run(["train", "language_model", "--data", "book.txt", "--tokens", tokens, *small, "--out", "lm"]) == 0
    capsys.readouterr()
    assert run(["score", "lm", "texts.jsonl", "--out", "scores.jsonl", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert (totals["texts"], totals["bytes"]) == (4, 0 + 1 + 9 + 2)
    rows = [json.loads(line) for line in Path("scores.jsonl").read_text("utf-8").split("\n")[:-1]]
    for number, text in enumerate(texts, start=1):
        assert "".join(row["token"] for row in rows if row["row"] == number) == text
    assert run(["score", "lm", "--dtype", "bfloat16"]) == 2
    assert "--dtype with lm; it says nothing there" in capsys.readouterr().err


def test_the_validation_rows_of_a_text_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("XENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lines = [("isda at kanin", "a"), ("bahay sa ilog", "b"), ("bundok", "c")] * 20
    Path("t.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in lines))
    small = ["--features", "4", "--hidden", "4", "--epochs", "1", "--threads", "1", "--no-watch", "--out", "run"]
    assert run(["train", "text", "--data", "t.csv", *small]) == 0
    metrics = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])["validation"]
    capsys.readouterr()
    assert run(["score", "run", "--out", "rows.jsonl", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert totals["tokens"] == len(rows) == 6
    # the same float32 logits, summed in float64 here
    assert totals["nats_per_token"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert totals["accuracy"] == metrics["accuracy"]
    assert run(["score", "run", "t.csv"]) == 2
    assert "such a run has its own rows" in capsys.readouterr().err
