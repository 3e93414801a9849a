"""Infinities, NaN, ignored and empty rows: the kernels agree with the reference formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xent.backends import reference
from xent.ops.native import cross_entropy as native
from xent.problem import rows_of
from xent.terms import LossTerms

INF, NAN = float("inf"), float("nan")
ROWS = {
    "one −inf": [1.0, -INF, 2.0, 0.5],
    "target −inf": [-INF, 1.0, 2.0, 0.5],
    "all −inf": [-INF] * 4,
    "+inf": [1.0, INF, 2.0, 0.5],
    "two +inf": [1.0, INF, INF, 0.5],
    "NaN": [1.0, NAN, 2.0, 0.5],
    "NaN and +inf": [NAN, 1.0, INF, 0.5],
    "+inf then NaN": [INF, 1.0, NAN, 0.5],
    "largest floats": [3e38, 3e38, -3e38, 0.0],
    "ties": [2.0, 2.0, 2.0, 2.0],
    "far apart": [0.0, -200.0, -90.0, -104.0],
}


def layouts_of(x: Tensor) -> tuple[Tensor, ...]:
    return x, x.t().contiguous().t()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("long", [False, True])
def test_a_row_of_edge_values(isa: str, row: str, smoothing: float, long: bool) -> None:
    if row == "largest floats" and smoothing:
        pytest.skip("the distance of two logits overflows float32 before it is weighed, or after: both are right")
    x = torch.zeros(2, 9000 if long else 4)
    x[0, -4:] = torch.tensor(ROWS[row])
    target = torch.tensor([x.shape[1] - 4, 0])
    for logits in layouts_of(x):
        for terms in (LossTerms(label_smoothing=smoothing), LossTerms(label_smoothing=smoothing, logit_scale=0.5)):
            problem = rows_of(logits, target, terms)
            want, got = (file.rows_with_stats(problem) for file in (reference.cross_entropy, native))
            torch.testing.assert_close(got.loss, want.loss, equal_nan=True)
            torch.testing.assert_close(got.lse, want.lse, equal_nan=True)
            torch.testing.assert_close(got.entropy, want.entropy, equal_nan=True, rtol=1e-5, atol=2e-6)
            assert torch.equal(got.prediction, want.prediction)


@pytest.mark.parametrize("row", ["one −inf", "target −inf", "all −inf", "+inf", "NaN", "ties", "far apart"])
def test_gradients_of_edge_rows(isa: str, row: str) -> None:
    x = torch.stack([torch.tensor(ROWS[row]), torch.zeros(4)])
    for logits in layouts_of(x):
        gradients = []
        for file in (reference.cross_entropy, native):
            leaf = logits.detach().requires_grad_()
            loss, _ = file.rows(rows_of(leaf, torch.tensor([2, 0]), LossTerms()))
            gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
        torch.testing.assert_close(gradients[1], gradients[0], equal_nan=True)


@pytest.mark.parametrize("classes", [4, 10, 600], ids=["narrow", "ten", "merged"])
@pytest.mark.parametrize("rows", [40, 67, 1100])
def test_edge_rows_among_others_of_a_strip(isa: str, rows: int, classes: int) -> None:
    """Calls without statistics take many rows per vector and their logarithms together: no row may change another."""
    x = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))
    target = torch.arange(rows) % 4
    for place, row in enumerate(ROWS.values()):
        for at in (3 * place + 1, rows - 1 - place):
            x[at, :4] = torch.tensor(row)
    x[0], x[3], target[3] = -INF, NAN, -100
    for logits in layouts_of(x):
        values = []
        for file in (reference.cross_entropy, native):
            leaf = logits.detach().requires_grad_()
            loss, _ = file.rows(rows_of(leaf, target, LossTerms()))
            values.append((loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]))
        torch.testing.assert_close(values[1], values[0], equal_nan=True)


def test_an_ignored_row_has_gradient_zero_whatever_it_holds(isa: str) -> None:
    x = torch.randn(3, 5)
    x[1] = NAN
    for logits in layouts_of(x):
        for terms in (LossTerms(), LossTerms(logit_scale=2.0)):
            leaf = logits.detach().requires_grad_()
            loss, weight = native.rows(rows_of(leaf, torch.tensor([1, -100, 2]), terms))
            assert loss[1] == 0
            assert weight.tolist() == [1, 0, 1]
            gradient = torch.autograd.grad(loss.sum(), leaf)[0]
            assert torch.equal(gradient[1], torch.zeros(5))
            assert gradient.isfinite().all()


def test_zero_probability_at_minus_infinity_costs_nothing(isa: str) -> None:
    logits = torch.tensor([[0.0, -INF, 1.0]])
    q = torch.tensor([[0.5, 0.0, 0.5]])
    want, _ = reference.cross_entropy.rows(rows_of(logits, q, LossTerms()))
    got, _ = native.rows(rows_of(logits, q, LossTerms()))
    torch.testing.assert_close(got, want)
    assert got.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
def test_no_rows(isa: str, shape: tuple[int, ...]) -> None:
    leaf = torch.empty(shape, requires_grad=True)
    loss, _ = native.rows(rows_of(leaf, torch.empty(shape[:-1], dtype=torch.int64), LossTerms(), -1))
    loss.sum().backward()
    assert loss.shape == shape[:-1]
    assert leaf.grad is not None
    assert leaf.grad.shape == shape


def test_a_class_weight_of_zero_on_an_infinite_cost_is_nan(isa: str) -> None:
    for rows in (1, 40):
        x = torch.zeros(rows, 3)
        x[:, 1] = -INF
        terms = LossTerms(label_smoothing=0.1, weight=torch.tensor([1.0, 0.0, 1.0]))
        for logits in layouts_of(x):
            problem = rows_of(logits, torch.zeros(rows, dtype=torch.int64), terms)
            want, got = (file.rows(problem)[0] for file in (reference.cross_entropy, native))
            torch.testing.assert_close(got, want, equal_nan=True)
