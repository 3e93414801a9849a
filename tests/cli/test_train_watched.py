"""`xent train` carries records, goes on in them, and writes the page at its end."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.inspection.watching.test_watch import records
from xent.cli import main
from xent.errors import DependencyError

SMALL = ["--epochs", "2", "--hidden", "8"]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Path], Path]]:
    """Stands in the place of xent.report.run_page; holds what it was asked for."""
    asked: list[tuple[list[Path], Path]] = []
    module = types.ModuleType("xent.report.run_page")
    module.__spec__ = ModuleSpec("xent.report.run_page", None)
    module.write_report = lambda runs, out: asked.append((runs, out))  # type: ignore[attr-defined]
    import xent.report

    monkeypatch.setitem(sys.modules, "xent.report.run_page", module)
    monkeypatch.setattr(xent.report, "run_page", module, raising=False)
    return asked


@pytest.mark.usefixtures("pages")
def test_a_resumed_run_goes_on_in_its_records(tmp_path: Path):
    run = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--out", str(run)]) == 0
    first = records(run / "records.jsonl")
    steps = first[-1]["steps"]
    assert main(["train", "digits", "--resume", str(run), "--epochs", "3"]) == 0
    found = records(run / "records.jsonl")
    assert found[: len(first) - 1] == first[:-1]  # all but the end
    (resumed,) = records(run / "records.jsonl", "resume")
    assert (resumed["step"], found[-1]["steps"]) == (steps, steps // 2 * 3)
    after = [record["step"] for record in found[found.index(resumed) + 1 : -1] if record["kind"] == "step"]
    assert after[0] == steps + 1
    evaluations = [(each["step"], each["split"]) for each in records(run / "records.jsonl", "evaluation")]
    assert evaluations == [(steps // 2 * epoch, part) for epoch in (1, 2, 3) for part in ("train", "validation")]


def test_the_page_is_the_last_line(tmp_path: Path, pages: list[tuple[list[Path], Path]], capsys):
    run = tmp_path / "run"
    assert main(["train", "digits", *SMALL, "--out", str(run)]) == 0
    assert pages == [([run], run / "report.html")]
    assert capsys.readouterr().out.splitlines()[-1] == f"report     {run / 'report.html'}"


def test_a_page_that_cannot_be_written_fails_no_training(
    tmp_path: Path, pages: list[tuple[list[Path], Path]], capsys, monkeypatch: pytest.MonkeyPatch
):
    def refuse(runs: list[Path], out: Path) -> None:
        raise DependencyError("altair is not installed", "the page needs it", "pip install altair")

    monkeypatch.setattr(sys.modules["xent.report.run_page"], "write_report", refuse)
    assert main(["train", "digits", *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert not pages
    assert "report     not written: altair is not installed" in capsys.readouterr().out


def test_watching_changes_no_bit_of_a_run(tmp_path: Path, pages: list[tuple[list[Path], Path]]):
    for name, also in (("watched", []), ("plain", ["--no-watch"])):
        assert main(["train", "digits", *SMALL, "--out", str(tmp_path / name), *also]) == 0
    assert not (tmp_path / "plain" / "records.jsonl").exists()
    assert len(pages) == 1
    for name in ("model.safetensors", "metrics.jsonl", "checkpoint"):
        assert (tmp_path / "watched" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
