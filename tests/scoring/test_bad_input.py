"""Does every mistake get one clear line, with the row's number where there is one; and nothing half-written?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
from tests.scoring.hub_model import write_model
from xent.cli._main import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model"
    write_model(path)
    return path


def _refused(capsys: Any, *command: object) -> str:
    assert run(["score", *map(str, command)]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("xent: error: ")
    return captured.err


_FILES: dict[str, tuple[bytes, list[str], str]] = {
    "empty.txt": (b"", [], "is empty (0 bytes)"),
    "empty.jsonl": (b"", [], "is empty (0 bytes)"),
    "wrong.jsonl": (b'{"words": "a"}\n', [], "text"),
    "bytes.txt": (b"a \xff", [], "row 1: byte 3 is no UTF-8"),
    "lines.txt": (b"a\nb\n\xffc\n", ["--lines"], "row 3: byte 1 is no UTF-8"),
    "long.txt": (b"cat " * 50, [], " tokens to score and a context of 32"),
    "long.jsonl": (b'{"text": "a"}\n{"text": "' + b"cat " * 50 + b'"}\n', [], "row 2: "),
}


@pytest.mark.parametrize("name", _FILES)
def test_a_bad_file(name: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    content, options, said = _FILES[name]
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "scores.jsonl"
    assert said in _refused(capsys, model, tmp_path / name, *options, "--out", out)
    assert not out.exists()


def test_bad_rows_are_skipped_and_counted(model: Path, tmp_path: Path, capsys: Any) -> None:
    texts = tmp_path / "lines.txt"
    texts.write_bytes(b"the cat\n\xff\n" + b"cat " * 50 + b"\nthe mat\n")
    assert run(["score", str(model), str(texts), "--lines", "--skip-bad", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert (totals["texts"], totals["skipped"]) == (2, 2)
    assert "row 2: byte 1" in totals["faults"][0]
    assert "row 3: " in totals["faults"][1]
    assert "tokens to score and a context of 32" in totals["faults"][1]


def test_a_model_that_gives_nan(tmp_path: Path, capsys: Any) -> None:
    broken = write_model(tmp_path / "nan")
    with torch.no_grad():
        broken.model.embed_tokens.weight[:].fill_(float("nan"))
    broken.save_pretrained(tmp_path / "nan")
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat")
    assert "row 1: the model gives token 1 (" in _refused(capsys, tmp_path / "nan", texts)
    assert run(["score", str(tmp_path / "nan"), str(texts), "--skip-bad"]) == 0
    assert "nothing was scored" in capsys.readouterr().out


def test_without_transformers_a_name_that_is_no_directory_is_named(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    texts = tmp_path / "t.txt"
    texts.write_text("text")
    said = _refused(capsys, "runs/none", texts)
    assert said == (
        "xent: error: runs/none is no directory, and transformers is not installed; it reads models of the hub, by "
        "their names or saved in a directory: check the path, or pip install 'xent[transformers]'\n"
    )


def test_a_directory_that_is_no_model(model: Path, tmp_path: Path, capsys: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat")
    write_model(tmp_path / "bare", with_tokenizer=False)
    assert "holds no tokenizer" in _refused(capsys, tmp_path / "bare", texts)
    assert run(["score", str(tmp_path / "bare"), str(texts), "--tokenizer", str(model), "--json"]) == 0
    capsys.readouterr()
    (tmp_path / "nothing").mkdir()
    assert "holds no config.json" in _refused(capsys, tmp_path / "nothing", texts)
    assert "does not exist" in _refused(capsys, tmp_path / "gone" / "model", texts)
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"cut")
    assert "can't be read" in _refused(capsys, tmp_path / "bare", texts, "--tokenizer", model)


def test_a_model_that_was_saved_without_its_head(tmp_path: Path, capsys: Any) -> None:
    """transformers would make the head up at random."""
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat")
    write_model(tmp_path / "whole").model.save_pretrained(tmp_path / "whole")
    assert "lacks lm_head.weight; weights that are not in its files would be random" in _refused(
        capsys, tmp_path / "whole", texts
    )


def test_a_model_that_sees_later_tokens(model: Path, tmp_path: Path, capsys: Any) -> None:
    from transformers import BertConfig, BertLMHeadModel

    texts = tmp_path / "texts.txt"
    texts.write_text("the cat")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for is_decoder in (False, True):
        bert = BertLMHeadModel(BertConfig(vocab_size=400, is_decoder=is_decoder, initializer_range=0.5, **sizes))
        bert.save_pretrained(tmp_path / "bert")
        command = [tmp_path / "bert", texts, "--tokenizer", model]
        if is_decoder:
            assert run(["score", *map(str, command)]) == 0
        else:
            assert "a BertLMHeadModel whose predictions change with later tokens" in _refused(capsys, *command)


def test_options_that_do_not_fit(model: Path, tmp_path: Path, capsys: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat")
    for options, said in (
        (["--context", "33"], "the model reads 1 to 32 tokens at once"),
        (["--stride", "33"], "a window moves by 1 to 32 tokens"),
        (["--bos", "eos"], "the tokenizer has no eos token"),
        (["--dtype", "float33"], "--dtype float33"),
        (["--dtype", "int8"], "--dtype int8; it is auto or a floating-point dtype"),
        (["--ignore-index", "0"], "--ignore-index with "),
        (["--html", tmp_path / "no" / "page.html", "--out", tmp_path / "scores.jsonl"], "is no folder"),
        (["--out", tmp_path / "scores.csv"], "its ending is .parquet or .jsonl"),
        (["--out", tmp_path / "no" / "scores.jsonl"], "is no folder"),
        (["--html", tmp_path / "page.txt"], "ends in .html"),
        (["--logits", "x.npy"], "no --targets"),
    ):
        assert said in _refused(capsys, model, texts, *options)
        assert not (tmp_path / "scores.jsonl").exists()  # refused before any work
    saved = ("--logits", "x.npy", "--targets", "y.npy")
    for option in ("--lines", "--dtype=bfloat16", "--stride=8", "--bos=bos", "--text-column=body"):
        name = option.partition("=")[0]
        assert f"{name} with --logits; it says nothing there" in _refused(capsys, *saved, option)
    assert "no TEXTS" in _refused(capsys, model)
    assert "neither a model nor --logits" in _refused(capsys)
    assert "it must be a file of texts" in _refused(capsys, model, tmp_path / "gone.txt")
