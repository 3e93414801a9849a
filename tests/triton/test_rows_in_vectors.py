"""Rows of several tiles: folded in lanes of whole vectors, also where they begin between two; and launched again."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

import xent
from tests.triton.conftest import LAUNCHES
from xent.backends.triton import cross_entropy, programs
from xent.backends.triton.row_layout import in_two_strides
from xent.problem import Rows
from xent.terms import LossTerms

CALLS = importlib.import_module("xent.backends.triton.calls")
FEW = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0, "logit_scale": 0.5}


@pytest.fixture
def short_vectors(monkeypatch):
    """Two float32 at once, tiles of eight: rows of 37 are four tiles, a part of one, and what lies before and after."""
    monkeypatch.setattr(CALLS, "_VECTOR", 8)
    monkeypatch.setattr(LAUNCHES, "heuristic", lambda question: LAUNCHES.Launch(rows=1, columns=8, warps=1))
    programs.forget()
    yield
    programs.forget()


def targets(kind: str, classes: int):
    if kind == "probabilities":
        return torch.rand(4, classes).softmax(1)
    if kind == "sparse":
        return xent.SparseTarget(torch.tensor([[0, 3], [classes - 1, 1], [5, -100], [2, 2]]), torch.rand(4, 2))
    return torch.tensor([0, classes - 1, -100, 7])


@pytest.mark.parametrize("kind", ["indices", "probabilities", "sparse"])
@pytest.mark.parametrize("options", [{}, FEW], ids=["plain", "terms"])
@pytest.mark.parametrize("classes", [37, 40, 9])
def test_values_and_gradients_are_those_of_the_reference(kind, options, classes, short_vectors):
    """A float32 sum of 40 terms in any order is within 40 · 6e-8 of the sum of their sizes; twice that is granted."""
    x = 3 * torch.randn(4, classes)
    x[1, :3], x[3, -2:] = -torch.inf, 20.0
    weight = torch.rand(classes) if options else None
    found = []
    for name, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        logits = x.to(dtype, copy=True).requires_grad_()
        with xent.backend(name):
            loss, rows = xent.cross_entropy(
                logits,
                targets_as(kind, classes, dtype),
                None if weight is None else weight.to(dtype),
                stats=True,
                **options,
            )
        (loss + rows.entropy.nan_to_num().sum() + rows.lse.sum()).backward()
        found.append((rows.loss, rows.lse, rows.entropy, logits.grad, rows.prediction))
    for got, true in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), true.double(), rtol=5e-6, atol=5e-6, equal_nan=True)


def targets_as(kind: str, classes: int, dtype: torch.dtype):
    torch.manual_seed(3)
    target = targets(kind, classes)
    if kind == "sparse":
        return xent.SparseTarget(target.indices, target.probabilities.to(dtype))
    return target.to(dtype) if kind == "probabilities" else target


@pytest.mark.parametrize(
    ("logits", "launch", "cut"),
    [
        (torch.empty(4, 37), (1, 8), {"LANES": 4, "VECTOR": 2, "PEELED": True}),
        (torch.empty(4, 36), (1, 8), {"LANES": 4, "VECTOR": 2, "PEELED": False}),
        (torch.empty(1, 37), (1, 8), {"LANES": 4, "VECTOR": 2, "PEELED": False}),
        (torch.empty(4, 37), (1, 4), {"LANES": 2, "VECTOR": 2, "PEELED": False}),
        (torch.empty(4, 8), (1, 8), {"LANES": 1, "VECTOR": 2, "PEELED": False}),
        (torch.empty(37, 4).t(), (1, 8), {"LANES": 1, "VECTOR": 2, "PEELED": False}),
    ],
    ids=["between vectors", "on vectors", "one row", "too few lanes for the edge", "one tile", "strided classes"],
)
def test_what_is_read_in_vectors(logits, launch, cut, short_vectors):
    call = CALLS.row_call("cross_entropy", CALLS.rows_alone(logits))
    asked = LAUNCHES.Launch(*launch, 1)
    assert call.vectors(asked) | call.lanes(asked) == cut
    assert in_two_strides((logits,))[0][0] is logits


class FakeKernel:
    """Stands for a compiled kernel: it writes down how it was started, first by name, then by what it compiled."""

    def __init__(self, kernel) -> None:
        self.arg_names, self.first, self.again = kernel.arg_names, [], []

    def __getitem__(self, grid):
        def start(*arguments, num_warps, **named):
            names = self.arg_names[len(arguments) :]
            self.first.append((grid, (*arguments, *(named[name] for name in names))))
            return Compiled(self)

        return start


class Compiled:
    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.again.append((grid[:1], arguments))


@pytest.fixture
def kernel(monkeypatch):
    fake = FakeKernel(cross_entropy._forward_kernel)
    monkeypatch.setattr(cross_entropy, "_forward_kernel", fake)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # that of tensors on the CPU
    programs.forget()
    yield fake
    programs.forget()


def test_a_call_like_an_earlier_one_starts_its_program_with_its_own_pointers(kernel):
    x, y = torch.randn(6, 5), torch.zeros(6, dtype=torch.int64)
    cross_entropy.forward(Rows(x, y, LossTerms()), False)
    other = torch.randn(6, 5)
    values = cross_entropy.forward(Rows(other, y, LossTerms()), False)
    ((grid, arguments),), ((grid_again, again),) = kernel.first, kernel.again
    assert grid_again == grid
    assert again[0] is other
    assert again[5] is values.loss
    assert again[13:] == arguments[13:]
    assert len(again) == len(kernel.arg_names)


@pytest.mark.parametrize(
    "changed",
    [
        {"logits": torch.randn(7, 5)[:6].double()},
        {"logits": torch.randn(6, 6)},
        {"logits": torch.randn(6, 6)[:, :5]},
        {"logits": torch.randn(31)[1:].view(6, 5)},
        {"terms": LossTerms(label_smoothing=0.1)},
        {"terms": LossTerms(ignore_index=1)},
        {"terms": LossTerms(row_weight=torch.ones(6))},
        {"stats": True},
    ],
    ids=["dtype", "classes", "strides", "alignment", "smoothing", "ignore_index", "row weight", "statistics"],
)
def test_any_other_call_is_asked_anew(changed, kernel):
    given = {"logits": torch.randn(6, 5), "terms": LossTerms(), "stats": False}
    for options in (given, given | changed):
        problem = SimpleNamespace(**options)
        target = torch.zeros(6, dtype=torch.int64)
        cross_entropy.forward(Rows(problem.logits, target, problem.terms), problem.stats)
    assert len(kernel.first) == 2
    assert not kernel.again


def test_what_had_to_be_copied_is_not_launched_again(kernel):
    apart = torch.zeros(6, 2, dtype=torch.int64)[:, 0]
    for _ in range(2):
        cross_entropy.forward(Rows(torch.randn(6, 5), apart, LossTerms()), False)
    assert len(kernel.first) == 2


def test_programs_do_not_pile_up(kernel, monkeypatch):
    monkeypatch.setattr(programs, "_MOST", 3)
    for rows in range(1, 9):
        cross_entropy.forward(Rows(torch.randn(rows, 5), torch.zeros(rows, dtype=torch.int64), LossTerms()), False)
    assert len(programs._known) == 2
