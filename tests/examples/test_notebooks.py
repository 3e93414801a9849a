"""The example notebooks run without an error or a warning, and print what stands in the files."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.examples.execution import EXAMPLES, NOTEBOOKS, executed, read, smaller, tidy
from tests.examples.outputs import alike, complaints, differences, texts

BYTES = 150_000  # more is slow to open, and GitHub shows no notebook of a few MB


@pytest.mark.slow
# zmq warns where a process has forked threads of its own, and jupyter_client where it meets an event loop of pytest's
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::RuntimeWarning", "default::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_fresh_run_prints_what_the_file_says(path, tmp_path, monkeypatch):
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):  # no start-up files or kernels of a user
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = read(path)
    fresh = executed(committed, tmp_path)
    assert complaints(fresh) == []
    assert differences(committed, fresh) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_whole(path):
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert 15 <= len(notebook.cells) <= 25
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom, once"
    assert complaints(notebook) == []
    assert path.stat().st_size <= BYTES
    assert nbformat.writes(tidy(read(path))) == nbformat.writes(notebook), "write it with tests.examples.execution"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_machine_or_of_a_moment_is_printed(path):
    shown = "\n".join(text for cell in read(path).cells for text in texts(cell))
    assert re.findall(r"(?:/home|/root|/tmp|/work|/Users|[A-Z]:\\)\S*|0x[0-9a-f]{6,}|\d ?ms\b", shown) == []
    assert str(Path.cwd()) not in shown


def test_every_notebook_is_in_the_list_of_the_folder():
    listed = re.findall(r"\]\((\S+?\.ipynb)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("loss 0.6914", "loss 0.6915", True),
        ("loss 0.6914", "loss 0.6916", False),
        ("−0.0000  1,234 rows", "0.0000 1,234 rows", True),
        ("182 steps", "183 steps", False),
        ("1.2e-05", "1.3e-05", True),
        ("1.2e-05", "1.4e-05", False),
        ("equal (0 ulp)", "equal (2 ulp)", True),
        ("equal (0 ulp)", "NOT EQUAL: 0.1000 of it is not explained", False),
        ("row 3  cat", "row 3  dog", False),
        ("0 ├───●─┤ 0.6931", "0 ├──●──┤ 0.6931", True),
        ("one line", "", False),
    ],
)
def test_what_counts_as_the_same_line(before, after, same):
    assert alike(before, after) is same


def test_a_changed_number_and_a_warning_are_found(tmp_path):
    printed = nbformat.v4.new_output("stream", name="stdout", text="0.7")
    cell = nbformat.v4.new_code_cell("print(0.5)", outputs=[printed])
    noisy = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: …")
    fresh = nbformat.from_dict({**cell, "outputs": [{**printed, "text": "0.5"}, noisy]})
    old, new = (nbformat.v4.new_notebook(cells=[one]) for one in (cell, fresh))
    assert differences(old, new) == ["cell 0: '0.7' in the file, '0.5' now"]
    assert complaints(new) == ["UserWarning: …"]


def test_a_smaller_picture_has_the_same_pixels():
    """1 × 1 pixels: written by hand, so that no library that reads pictures is needed."""
    import struct
    import zlib

    raw = b"\x00\x10\x20\x30"
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw, 0)), (b"IEND", b"")]
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    again = smaller(picture)
    start = again.index(b"IDAT")
    (size,) = struct.unpack_from(">I", again, start - 4)
    assert zlib.decompress(again[start + 4 : start + 4 + size]) == raw
    assert again[:33] == picture[:33]  # signature and header with its sum
    assert smaller(again) == again
