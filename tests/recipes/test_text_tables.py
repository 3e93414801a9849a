"""Tables of texts: every format gives the same rows, every fault its row, and no file is held whole."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xent.errors import DataError, OptionError
from xent.recipes._text_tables import TextRow, TextTable

ROWS = [("the river\nbank", "b"), ('say "hi", café 漢字', "a"), ("", "b"), ("tab\there", "7")]


def table(path: Path, **options) -> TextTable:
    return TextTable(path, label_column="label", **options)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        columns = {"n": [1, 2, 3, 4], "text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}
        pq.write_table(pa.table(columns), path)
        return path
    if ".jsonl" in name:
        lines = [
            json.dumps({"n": 1, "label": int(label) if label.isdigit() else label, "text": text})
            for text, label in ROWS
        ]
    else:
        separator = "\t" if ".tsv" in name else ","
        lines = [separator.join(("n", "text", "label"))]
        lines += [separator.join(("1", quoted(text), quoted(label))) for text, label in ROWS]
    content = "\n".join(lines).encode() + b"\n"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str):
    first = 2 if "sv" in name else 1  # the header is row 1
    assert list(table(written(tmp_path, name)).rows()) == [
        TextRow(first + i, text, label) for i, (text, label) in enumerate(ROWS)
    ]


def test_bom_line_ends_of_windows_and_no_last_line_end(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\none,a\r\ntwo, b ")
    assert list(table(path).rows()) == [TextRow(2, "one", "a"), TextRow(3, "two", "b")]
    path.write_bytes(b"text,label\rone,a\rtwo,b\r")  # as Excel for Mac saves "CSV (Macintosh)"
    assert list(table(path).rows()) == [TextRow(2, "one", "a"), TextRow(3, "two", "b")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_numbers_as_labels(tmp_path: Path, name: str):
    # a column of integers with gaps is one of floats in pandas, and its gaps are NaN
    labels = [0, 1.0, 2.5, float("nan"), True] if name == "a.jsonl" else [0.0, 1.0, 2.5, float("nan")]
    path, texts = tmp_path / name, [f"t{i}" for i in range(len(labels))]
    if name == "a.jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": v}) + "\n" for t, v in zip(texts, labels, strict=True)))
    else:
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    lenient = table(path, skip_bad=True)
    assert [row.label for row in lenient.rows()] == ["0", "1", "2.5", "true"][: len(labels) - 1]
    assert lenient.first_faults == ["row 4: label is NaN"]
    with pytest.raises(DataError, match="row 4: label is NaN"):
        list(table(path).rows())


def test_labels_of_a_dictionary_column_and_without_labels(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x", "y"], "label": pa.array(["p", "q"]).dictionary_encode()}), path)
    assert [row.label for row in table(path).rows()] == ["p", "q"]
    assert list(TextTable(path).rows()) == [TextRow(1, "x"), TextRow(2, "y")]


FAULTS = {
    "ragged.csv": (b"text,label\na,1\n\nb\nc,2\nd,3,4\n", {3: "1 cell under 2 columns", 5: "3 cells under 2 columns"}),
    "open.csv": (b'text,label\na,1\n"b,2\nc,3\n', {3: "1 cell under 2 columns, and a quote is left open"}),
    "bytes.csv": (b"text,label\na,1\nb\xff,2\n", {3: "byte 1 of text is 0xff, which is no UTF-8 there"}),
    "bytes.tsv": (b"text\tlabel\na\t1\nb\t\xe9\n", {3: "byte 0 of label is 0xe9, which is no UTF-8 there"}),
    "label.csv": (b"text,label\na,1\nb, \nc,\n", {3: "label is empty", 4: "label is empty"}),
    "json.jsonl": (
        b'{"text": "a", "label": 1}\n{"text"\n[1]\n{"text": "b"}\n{"text": 3, "label": 1}\n'
        b'{"text": "\\ud83d", "label": 1}\n',
        {
            2: "it is no JSON (Expecting ':' delimiter: line 2 column 1",
            3: "it is no JSON object such as {...}",
            4: "label is missing",
            5: "text is 3, which is no text",
            6: "text holds half of a surrogate pair",
        },
    ),
    "bytes.jsonl": (
        b'{"text": "a", "label": 1}\n{"text": "\xff", "label": 1}\n',
        {2: "byte 10 is 0xff, which is no UTF-8"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_first_bad_row_has_its_number_and_all_are_counted(tmp_path: Path, name: str):
    content, faults = FAULTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    number, detail = next(iter(faults.items()))
    with pytest.raises(DataError) as caught:
        list(table(path).rows())
    assert f"{name}, row {number}: {detail}" in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    lenient = table(path, skip_bad=True)
    good = list(lenient.rows())
    assert good[0].text == "a"
    assert not {row.number for row in good} & faults.keys()
    assert lenient.skipped.total() == len(faults)
    assert [said.split(":")[0] for said in lenient.first_faults] == [f"row {number}" for number in [*faults][:3]]
    assert list(lenient.rows()) == good  # a second reading counts anew
    assert lenient.skipped.total() == len(faults)


def test_missing_cells_of_parquet(tmp_path: Path):
    path = tmp_path / "a.parquet"
    bad = pa.array([b"a", b"\xff", b"c"]).view(pa.string())  # as a careless writer makes it
    pq.write_table(pa.table({"text": bad, "label": pa.array([1, 2, None])}), path)
    lenient = table(path, skip_bad=True)
    assert list(lenient.rows()) == [TextRow(1, "a", "1")]
    assert lenient.skipped == {"no UTF-8": 1, "no label": 1}


REFUSED = {
    "no such column": (
        "a.csv",
        b"text,Label\na,1\n",
        OptionError,
        "has no column 'label'; its columns are ['text', 'Label']",
    ),
    "twice": ("a.csv", b"text,label,text\na,1,b\n", OptionError, "has 2 columns 'text'"),
    "no such key": ("a.jsonl", b'{"body": "a"}\n', OptionError, "has no column 'text'; its columns are ['body']"),
    "empty": ("a.csv", b"", DataError, "is empty (0 bytes)"),
    "header only": ("a.csv", b"text,label\n", DataError, "has no row"),
    "all bad": ("a.csv", b"text,label\nx\n", DataError, "row 2: 1 cell"),
    "no Parquet": ("a.parquet", b"PAR1 or not", DataError, "it must be parquet"),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(b"text,label\n" + b"a,1\n" * 999)[:-9],
        DataError,
        "can't be read to its end",
    ),
    "one list": (
        "a.json",
        b'[\n {"text": "a", "label": 1}\n]\n',
        DataError,
        "row 1: it is no JSON object such as {...}, but",
    ),
    "semicolons": ("a.csv", b"text;label\na;1\n", OptionError, "['text;label']: separate its cells by commas"),
    "UTF-16": ("a.csv", "text,label\na,1\n".encode("utf-16"), DataError, "is UTF-16; a table is read as UTF-8"),
    "ending": ("a.xlsx", b"x", OptionError, "the ending says how a table is read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_none_is_refused(tmp_path: Path, case: str):
    name, content, error, sentence = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as caught:
        list(table(tmp_path / name).rows())
    assert sentence in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(OptionError, match="does not exist"):
        list(table(tmp_path / "a.csv").rows())


MEASURE = """
import sys
from pathlib import Path
from xent.recipes._text_tables import TextTable

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

rows = TextTable(Path(sys.argv[1]), label_column="label").rows()
for _ in range(2000):
    next(rows)
before = resident()
count = 2000 + sum(1 for _ in rows)
print(count, resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_file_is_never_held(tmp_path: Path, name: str):
    """240 MB of text; 128 MiB, half of it, is what the blocks that PyArrow reads ahead may take."""
    path, text, num_rows = tmp_path / name, "x" * 2000, 120_000
    if name.endswith("parquet"):
        with pq.ParquetWriter(
            path, pa.schema({"text": pa.string(), "label": pa.string()}), use_dictionary=False
        ) as writer:
            for _ in range(60):
                writer.write_table(pa.table({"text": [text] * 2000, "label": ["a"] * 2000}))
    else:
        line = f"{text},a\n" if name == "a.csv" else json.dumps({"text": text, "label": "a"}) + "\n"
        with path.open("w") as file:
            file.write("text,label\n" if name == "a.csv" else "")
            file.writelines(line for _ in range(num_rows))
    result = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    count, grown = map(int, result.stdout.split())
    assert count == num_rows
    assert grown < 128 << 20
