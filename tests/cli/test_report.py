"""`xent report` as a user meets it: where the page is, the newest run, and one line for every mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.report.written_runs import header, step, write
from xent.cli import main


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def two_runs() -> list[str]:
    for name, age in (("a", 200), ("b", 100)):
        run = write(Path("runs") / name, [header(name), step(1, 2.0)])
        os.utime(run / "records.jsonl", (1e9 - age, 1e9 - age))
    return ["runs/a", "runs/b"]


def test_the_page_stands_beside_the_run_or_where_it_is_wanted(capsys):
    runs = two_runs()
    assert main(["report", runs[0]]) == 0
    assert capsys.readouterr().out == "page       runs/a/report.html\n"
    assert main(["report", *runs]) == 0
    assert capsys.readouterr().out == "page       report.html\n"
    assert main(["report", *runs, "--out", "x.html"]) == 0
    assert capsys.readouterr().out == "page       x.html\n"
    assert all(Path(page).read_text("utf-8").startswith("<!doctype html>") for page in ("report.html", "x.html"))


def test_without_a_run_the_newest(capsys):
    two_runs()
    assert main(["report"]) == 0
    said = capsys.readouterr().out
    assert said == "run        runs/b (the newest under runs/)\npage       runs/b/report.html\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 1, "no run under runs/ has a records.jsonl; "),
        (["none"], 1, "none is no directory; "),
        (["empty"], 1, "empty holds no records.jsonl; "),
        (["runs/a", "--out", "x.pdf"], 2, "--out x.pdf; a page is a file that ends in .html: pass such as x.html"),
        (["runs/a", "--out", "none/x.html"], 2, "none is no folder; "),
        (["runs/a", "--port", "70000"], 2, "less than or equal to 65535"),
    ],
)
def test_a_mistake_gets_one_line(capsys, arguments, status, words):
    Path("empty").mkdir()
    if arguments and arguments[0] == "runs/a":
        two_runs()
    assert main(["report", *arguments]) == status
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_help_shows_an_example(capsys):
    assert main(["report", "--help"]) == 0
    assert "xent report runs/digits-2 --serve" in " ".join(capsys.readouterr().out.split())
