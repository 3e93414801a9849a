"""Are the texts of every kind of table scored alike, written alike, and refused with the number of the bad row?"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("pyarrow")
import pyarrow as pa
import pyarrow.parquet as pq

from tests.scoring.hub_model import write_model
from xent.cli._main import run

TEXTS = ["The cat sat on the mat.", 'a "dog", twice\nbarked', "naïve — café", "on\tthe mat"]
ENDINGS = ("csv", "tsv", "jsonl", "parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model"
    write_model(path)
    return path


def _written(path: Path) -> Path:
    """The same four texts in the column `body`, after another column."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"n": range(len(TEXTS)), "body": TEXTS}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"n": 0, "body": text}) + "\n" for text in TEXTS), "utf-8")
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        cells = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
        path.write_text(separator.join(("n", "body")) + "\n" + "".join(f"0{separator}{c}\n" for c in cells), "utf-8")
    return path


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_table_gives_the_same_scores(model: Path, tmp_path: Path, capsys: Any) -> None:
    plain = tmp_path / "scores-of-one.jsonl"  # each text by itself, as a plain file
    expected, nats = [], 0.0
    for number, text in enumerate(TEXTS):
        (tmp_path / "one.txt").write_text(text, "utf-8")
        assert run(["score", str(model), str(tmp_path / "one.txt"), "--out", str(plain), "--json"]) == 0
        nats += json.loads(capsys.readouterr().out)["nats"]
        expected += [{**row, "row": number} for row in _rows(plain)]
        plain.unlink()
    for place, ending in enumerate(ENDINGS):
        # each kind of table to one of the two kinds of output
        out = tmp_path / f"of-{ending}.{('jsonl', 'parquet')[place % 2]}"
        texts = _written(tmp_path / f"texts.{ending}")
        assert run(["score", str(model), str(texts), "--text-column", "body", "--out", str(out), "--json"]) == 0
        totals, rows = json.loads(capsys.readouterr().out), _rows(out)
        first = 2 if "sv" in ending else 1  # where the header is row 1
        assert [row["row"] - first for row in rows] == [row["row"] for row in expected]
        for name in ("position", "id", "token", "rank"):
            assert [row[name] for row in rows] == [row[name] for row in expected]
        for name in ("nats", "bits", "entropy"):  # products of padded batches: float32 logits of about 10
            assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], abs=1e-5)
        assert totals["nats"] == pytest.approx(nats, abs=1e-4)
        assert (totals["texts"], totals["skipped"]) == (len(TEXTS), 0)
        assert totals["bytes"] == sum(len(text.encode()) for text in TEXTS)


def _parquet(path: Path, cells: list[bytes | None]) -> None:
    column = pa.array(cells, pa.binary()).view(pa.string())  # as a careless writer makes it
    pq.write_table(pa.table({"text": column}), path)


_LONG = "cat " * 50
FAULTS: dict[str, tuple[Any, dict[int, str]]] = {
    "ragged.csv": (b"text,n\nthe cat,1\ncat\nb,2,3\nmat,2\n", {3: "1 cell under 2 columns", 4: "3 cells under 2"}),
    "ragged.tsv": (b"text\tn\nthe cat\t1\ncat\nmat\t2\n", {3: "1 cell under 2 columns"}),
    "open.csv": (b'text,n\nthe cat,1\n"b,2\nc,3\n', {3: "1 cell under 2 columns, and a quote is left open"}),
    "bytes.csv": (b"text,n\nthe cat,1\n\xff,2\nmat,3\n", {3: "byte 0 of text is 0xff, which is no UTF-8 there"}),
    "bytes.jsonl": (b'{"text": "the cat"}\n{"text": "\xff"}\n', {2: "byte 10 is 0xff, which is no UTF-8"}),
    "broken.jsonl": (b'{"text": "the cat"}\n{"text"\n[1]\n', {2: "it is no JSON", 3: "it is no JSON object"}),
    "missing.jsonl": (b'{"text": "the cat"}\n{"n": 1}\n', {2: "text is missing"}),
    "number.jsonl": (b'{"text": "the cat"}\n{"text": 3}\n', {2: "text is 3, which is no text"}),
    "missing.parquet": ([b"the cat", None, b"mat"], {2: "text is missing"}),
    "bytes.parquet": ([b"the cat", b"a\xff"], {2: "byte 1 of text is 0xff, which is no UTF-8 there"}),
    "long.csv": (f"text\nthe cat\n{_LONG}\nmat\n".encode(), {3: "tokens to score and a context of 32"}),
    "long.parquet": ([b"the cat", _LONG.encode()], {2: "tokens to score and a context of 32"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_row_has_its_number_and_leaves_nothing(name: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    content, faults = FAULTS[name]
    _parquet(tmp_path / name, content) if name.endswith("parquet") else (tmp_path / name).write_bytes(content)
    out = tmp_path / "scores.parquet"
    command = ["score", str(model), str(tmp_path / name), "--out", str(out), "--html", str(tmp_path / "page.html")]
    assert run(command) == 1
    captured = capsys.readouterr()
    number, fault = next(iter(faults.items()))
    assert captured.err.startswith(f"xent: error: {tmp_path / name}, row {number}: ")
    assert fault in captured.err
    assert "--skip-bad" in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert run([*command, "--skip-bad", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert totals["skipped"] == len(faults)
    for said, (number, fault) in zip(totals["faults"], faults.items(), strict=True):
        assert said.startswith(f"row {number}: ")
        assert fault in said
    assert not {row["row"] for row in _rows(out)} & faults.keys()
    assert totals["tokens"] == len(_rows(out)) > 0


NO_TABLE = {
    "empty.csv": (b"", 1, "is empty (0 bytes)"),
    "empty.parquet": (b"", 1, "is empty (0 bytes)"),
    "header.csv": (b"text\n", 1, "has no row"),
    "other.csv": (
        b"body,n\na,1\n",
        2,
        "has no column 'text'; its columns are ['body', 'n']: pass one of them as --text-column",
    ),
    "other.tsv": (b"body\tn\na\t1\n", 2, "has no column 'text'; its columns are ['body', 'n']"),
    "no.parquet": (b"PAR1 or not", 1, "it must be parquet"),
}


@pytest.mark.parametrize("name", NO_TABLE)
def test_a_file_that_is_no_table_of_texts(name: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    content, status, sentence = NO_TABLE[name]
    (tmp_path / name).write_bytes(content)
    assert run(["score", str(model), str(tmp_path / name), "--out", str(tmp_path / "scores.parquet")]) == status
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_was_done_before_a_bad_row_is_kept_for_skip_bad(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from xent.scoring import score

    monkeypatch.setattr(score, "SHARD", 2)
    texts, out = tmp_path / "texts.jsonl", tmp_path / "scores.jsonl"
    lines = [json.dumps({"text": text}) for text in TEXTS]
    texts.write_text("\n".join([*lines[:3], "[]", lines[3]]))
    command = ["score", str(model), str(texts), "--out", str(out), "--json"]
    assert run(command) == 1
    assert "row 4: it is no JSON object" in capsys.readouterr().err
    assert (tmp_path / "scores.jsonl.parts").is_dir()  # the first two texts
    assert run([*command, "--skip-bad"]) == 0
    totals = json.loads(capsys.readouterr().out)
    assert (totals["resumed_shards"], totals["texts"], totals["skipped"]) == (1, 4, 1)
    assert {row["row"] for row in _rows(out)} == {1, 2, 3, 5}
    assert not (tmp_path / "scores.jsonl.parts").exists()


def test_a_byte_order_mark_is_no_text_and_gzip_is_unpacked(model: Path, tmp_path: Path, capsys: Any) -> None:
    plain, out = b"the cat\r\nthe mat\n", tmp_path / "scores.jsonl"
    marked = b"\xef\xbb\xbf" + plain
    table = json.dumps({"text": "the cat"}) + "\n" + json.dumps({"text": "the mat"}) + "\n"
    files = {"plain.txt": plain, "marked.txt": marked, "marked.txt.gz": gzip.compress(marked)}
    scores = []
    for name, content in {**files, "LINES.JSONL.GZ": gzip.compress(table.encode())}.items():
        (tmp_path / name).write_bytes(content)
        lines = ["--lines"] if "txt" in name else []
        assert run(["score", str(model), str(tmp_path / name), *lines, "--out", str(out), "--json"]) == 0
        scores.append((_rows(out), json.loads(capsys.readouterr().out)["bytes"]))
        out.unlink()
    assert scores[0][1] == 14
    assert all(score == scores[0] for score in scores[1:])
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(plain * 99)[:-9])
    assert run(["score", str(model), str(tmp_path / "cut.txt.gz")]) == 1
    assert "can't be read to its end" in capsys.readouterr().err
