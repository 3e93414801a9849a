"""Are the scores of texts under a model of transformers those of its own logits, however they are read?"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
from tests.scoring.hub_model import TEXTS, write_model
from xent.cli._main import run
from xent.scoring._score_files import COLUMNS

_BITS = 1 / math.log(2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("hub") / "model"
    return path, write_model(path)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), "utf-8")
    return path


LINE_ENDS = "one\u2028two\x85three"  # line ends to str.splitlines, and none in JSON lines


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _truth(model: tuple[Path, Any], text: str, first: str | None = "<s>") -> tuple[list[int], torch.Tensor]:
    """Ids with the first token, and their log-probabilities (T − 1, V) in float64 of one pass without padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model[0])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = ids if first is None else [tokenizer.convert_tokens_to_ids(first), *ids]
    with torch.no_grad():
        logits = model[1](input_ids=torch.tensor([ids[:-1]])).logits[0]
    return ids, logits.double().log_softmax(-1)


def test_every_number_is_that_of_the_models_own_logits(model: Any, texts: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "scores.jsonl"
    assert run(["score", str(model[0]), str(texts), "--out", str(out), "--json"]) == 0
    totals, rows = json.loads(capsys.readouterr().out), _rows(out)
    nats = 0.0
    for number, text in enumerate(TEXTS, start=1):
        ids, log_p = _truth(model, text)
        own = [row for row in rows if row["row"] == number]
        assert [row["id"] for row in own] == ids[1:]
        assert "".join(row["token"] for row in own) == text
        assert [row["position"] for row in own] == list(range(len(own)))
        for row, token, predicted in zip(own, ids[1:], log_p, strict=True):
            nats -= predicted[token].item()
            # float32 logits of about 10: 2⁻²³ of them in each, and as much again from padding in another product
            assert row["nats"] == pytest.approx(-predicted[token].item(), abs=1e-5)
            assert row["bits"] == pytest.approx(row["nats"] * _BITS, rel=1e-12)
            assert row["rank"] == 1 + int((predicted > predicted[token]).sum())
            assert row["entropy"] == pytest.approx(-(predicted.exp() * predicted).sum().item(), abs=1e-5)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert totals["nats"] == pytest.approx(nats, rel=1e-6)
    assert (totals["tokens"], totals["unscored"], totals["words"], totals["bytes"]) == (len(rows), 0, words, num_bytes)
    assert totals["characters"] == sum(map(len, TEXTS))
    assert totals["perplexity"] == pytest.approx(math.exp(nats / len(rows)), rel=1e-5)
    assert totals["bits_per_token"] == pytest.approx(nats * _BITS / len(rows), rel=1e-6)
    # lm-evaluation-harness: weighted_perplexity exp(−Σ ln p ÷ Σ words), bits_per_byte −Σ ln p ÷ Σ bytes ÷ ln 2
    assert totals["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-5)
    assert totals["byte_perplexity"] == pytest.approx(math.exp(nats / num_bytes), rel=1e-5)
    assert totals["bits_per_byte"] == pytest.approx(nats * _BITS / num_bytes, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stride", [1, 3, 5])
def test_windows_and_batches_do_not_change_what_a_token_sees(
    model: Any, texts: Path, tmp_path: Path, batch_size: int, stride: int
) -> None:
    out = tmp_path / f"{batch_size}-{stride}.jsonl"
    options = ["--context", "5", "--stride", str(stride), "--batch-size", str(batch_size), "--out", str(out)]
    assert run(["score", str(model[0]), str(texts), *options]) == 0
    rows = _rows(out)
    ids, _ = _truth(model, TEXTS[1])
    own = [row for row in rows if row["row"] == 2]
    assert len(own) == len(ids) - 1
    for place, row in enumerate(own, start=1):  # the token's own window, by itself
        end = place + 1 if place <= 5 else min(6 + -(-(place + 1 - 6) // stride) * stride, len(ids))
        begin = max(0, (end - 1 if place > 5 else min(5, len(ids) - 1)) - 5)
        with torch.no_grad():
            logits = model[1](input_ids=torch.tensor([ids[begin:place]])).logits[0, -1]
        assert row["nats"] == pytest.approx(-logits.double().log_softmax(-1)[ids[place]].item(), abs=1e-5)


def test_without_a_beginning_the_first_token_is_not_scored(
    model: Any, texts: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "scores.jsonl"
    assert run(["score", str(model[0]), str(texts), "--bos", "none", "--out", str(out), "--json"]) == 0
    totals, rows = json.loads(capsys.readouterr().out), _rows(out)
    assert totals["unscored"] == len(TEXTS)
    first = [row for row in rows if row["position"] == 0]
    assert all(row[name] is None for row in first for name in ("nats", "bits", "rank", "entropy"))
    ids, log_p = _truth(model, TEXTS[0], first=None)
    own = [row["nats"] for row in rows if row["row"] == 1]
    assert own[1:] == pytest.approx([-log_p[place, token].item() for place, token in enumerate(ids[1:])], abs=1e-5)


def test_parquet_holds_the_same(model: Any, texts: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert run(["score", str(model[0]), str(texts), "--out", str(tmp_path / name)]) == 0
    table = parquet.read_table(tmp_path / "b.parquet").to_pydict()
    rows = _rows(tmp_path / "a.jsonl")
    assert list(table) == list(COLUMNS)
    assert all(table[name] == [row[name] for row in rows] for name in COLUMNS)


def test_a_stopped_command_goes_on_with_the_same_numbers(
    model: Any, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from xent.scoring import score

    monkeypatch.setattr(score, "SHARD", 1)
    texts.write_text(json.dumps({"text": LINE_ENDS}) + "\n" + texts.read_text("utf-8"), "utf-8")
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    assert run(["score", str(model[0]), str(texts), "--out", str(whole)]) == 0
    own, calls = score._score_shard, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(*arguments)

    command = ["score", str(model[0]), str(texts), "--out", str(stopped)]
    monkeypatch.setattr(score, "_score_shard", interrupted)
    assert run(command) == 130
    assert "give the command again" in capsys.readouterr().err
    assert not stopped.exists()
    assert run([*command, "--bos", "none"]) == 2  # other numbers are not mixed in
    assert "was begun with another model" in capsys.readouterr().err
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed_shards"] == 2
    assert len(calls) == 3 + 3
    assert stopped.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped.jsonl", "texts.jsonl", "whole.jsonl"]
    assert run(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_logits_of_all_rows_are_never_made(model: Any, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xent.scoring import _surprisal

    monkeypatch.setattr(_surprisal, "_PIECE", 600)  # two rows of 281 classes at a time
    made: list[int] = []
    own = torch.nn.functional.linear

    def linear(input: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        if weight.shape[0] > 200:  # the head
            made.append(input.shape[:-1].numel())
        return own(input, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    assert run(["score", str(model[0]), str(texts)]) == 0
    assert made
    assert max(made) <= 2
