"""What a program does with its model and its optimizer while it is watched works as it does without."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xent
from tests.inspection.test_step_order import FailsOnce
from tests.inspection.watching.test_watch import _strict, loop, records, small  # noqa: F401
from xent.cli._program import Program
from xent.cli._watched_program import Choices, WatchedProgram, _name_of
from xent.errors import DependencyError, RunError
from xent.inspection.watching import _watch
from xent.inspection.watching._program_watching import ProgramWatching


def test_a_model_is_copied_and_saved_between_steps(tmp_path: Path):
    """Hooks are there in between, and torch copies a module's hooks with all that they lead to."""
    model, x, y = small()
    model.eval()
    optimizer = torch.optim.Adam(model.parameters())
    with xent.watch(model, optimizer, tmp_path / "run", every=1) as watching:
        for _ in range(3):
            loop(model, optimizer, x, y, 1)
            best, file = copy.deepcopy(model), io.BytesIO()
            torch.save(best, file)
            torch.save(model, file)
            loop(best, torch.optim.SGD(best.parameters(), lr=0.1), x, y, 1)  # a copy is nobody's to watch
    assert [record["step"] for record in records(watching.path, "step")] == [1, 2, 3]
    assert b"xent" not in file.getvalue()
    assert torch.equal(copy.deepcopy(best)(x), best(x))
    assert records(watching.path)[-1]["status"] == "done"


def test_steps_go_on_after_one_that_failed(tmp_path: Path):
    model, x, y = small()
    optimizer = FailsOnce(model.parameters(), lr=0.1)
    losses = []
    with xent.watch(model, optimizer, tmp_path / "run", every=1, doctor=False) as watching:
        for _ in range(3):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(model(x), y))
            losses[-1].backward()
            try:
                optimizer.step()
            except RuntimeError:
                continue
    found = records(watching.path, "step")
    assert [record["step"] for record in found] == [1, 2]
    assert [record["loss"] for record in found] == pytest.approx([loss.item() for loss in losses[1:]], rel=1e-6)
    assert [record["step"] for record in records(watching.path, "layers")] == [1, 2]


def test_steps_go_on_after_a_closure_that_raised(tmp_path: Path):
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    is_bad = iter([False, True, False, False])

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if next(is_bad):
            raise ValueError("a batch to leave out")
        return loss

    with xent.watch(model, optimizer, tmp_path / "run", every=1, doctor=False) as watching:
        for _ in range(4):
            try:
                optimizer.step(closure)
            except ValueError:
                continue
    found = records(watching.path, "step")
    assert [(record["step"], record["count"]) for record in found] == [(1, 10), (2, 10), (3, 10)]


@pytest.mark.slow
@pytest.mark.parametrize("of_a_program", [False, True])
def test_a_compiled_step_compiles_none_of_ours(tmp_path: Path, of_a_program: bool):
    """Hooks of an optimizer lie inside of its compiled step: traced, they took minutes and the memory of the graphs."""
    torch._dynamo.reset()
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    step = torch.compile(optimizer.step, backend=backend)
    out = tmp_path / "run"
    watching = ProgramWatching(out, 1, {}) if of_a_program else xent.watch(model, optimizer, out, every=1)
    with watching:
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            step()
    assert [record["step"] for record in records(out / "records.jsonl", "step")] == [1, 2, 3, 4]
    assert all(record["ledger"]["equality"]["ulps"] <= 4 for record in records(out / "records.jsonl", "ledger"))
    assert len(traced) <= 2  # the step, and what is around it


def test_a_run_is_called_after_its_program():
    """Not after the package: `-m package.train` and `-m package.evaluate` are two programs."""
    assert _name_of(Program(None, "package.train", ())) == "train"
    assert _name_of(Program("some/train.v2.py", None, ())) == "train.v2"


def test_a_place_that_can_not_be_written_is_refused_before_the_program_runs(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"a file is in its place.*pass another --out"):
            Choices(out, None, False, True).check()
    Choices(tmp_path / "new" / "run", None, False, True).check()


def test_a_place_that_is_lost_meanwhile_does_not_end_the_program(tmp_path: Path, capsys):
    (tmp_path / "file").write_text("")
    watched = WatchedProgram(Choices(tmp_path / "file", None, False, False))
    watched._name = "train"
    watched._begin()
    watched.conclude("done", None)
    err = capsys.readouterr().err
    assert "xent watch: nothing is recorded: " in err
    assert "did not import torch" not in err


def test_a_tensorboard_that_can_not_be_imported_does_not_end_the_program(tmp_path: Path, monkeypatch, capsys):
    def broken(*given):
        raise DependencyError("tensorboard is not installed", "torch needs it", "pip install tensorboard")

    monkeypatch.setattr(_watch, "TensorBoard", broken)
    model, x, y = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProgramWatching(tmp_path / "run", 1, {"tensorboard": True, "doctor": False}) as watching:
        loop(model, optimizer, x, y, 2)
    assert "nothing is written for TensorBoard" in capsys.readouterr().err
    assert [record["step"] for record in records(watching.path, "step")] == [1, 2]


def test_a_wrapper_with_weights_of_its_own_is_part_of_the_model(tmp_path: Path):
    class Tempered(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.temperature = module, nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.module(x) / self.temperature

    model = Tempered(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.watch(model, optimizer, tmp_path / "run") as watching:
        loop(model, optimizer, torch.randn(5, 4), torch.arange(5) % 3, 1)
    (run,) = records(watching.path, "run")
    assert run["layers"] == ["Tempered", "module"]
