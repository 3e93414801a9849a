"""Both binary cross-entropies against the equations in 50 digits, over their own edge cases."""

from __future__ import annotations

import pytest
import torch

import xent
from tests.edge_cases import BACKENDS_HERE, DTYPES, running_on
from tests.functional import elementwise_oracle
from tests.functional.budget import assert_within_budget, leaf, measured, stats_dtype, upstream_for

HALVES = torch.tensor([0.25, 0.5, 2.0, 0.0, 1.0], dtype=torch.float64)
LOGITS = {
    "ordinary": torch.tensor([[-2.0, 0.0, 1.5, 0.3, 4.0]] * 2),
    "large": torch.tensor([[-1e4, 1e4, 50.0, -50.0, 88.8]] * 2),
    "subnormal": torch.tensor([[1e-40, -1e-40, 0.0, -0.0, 1e-8]] * 2),
    "empty": torch.empty(0, 5),
}
PROBABILITIES = {
    "ordinary": torch.tensor([[0.1, 0.5, 0.9, 0.25, 0.999]] * 2),
    "0 and 1": torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.5]] * 2),
    "near 0 and 1": torch.tensor([[1e-30, 1e-7, 0.9999, 0.99999994, 1e-3]] * 2),
    "empty": torch.empty(0, 5),
}
TARGETS = {
    "hard": torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 0.0]]),
    "soft": torch.tensor([[0.25, 0.5, 0.75, 0.125, 1.0], [0.0, 0.875, 0.5, 0.25, 0.375]]),
    "integer": torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0]]),
    "bool": torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 1, 0]]).bool(),
}
OPTIONS = [{}, {"reduction": "sum"}, {"reduction": "none"}, {"normalizer": 3.0}, {"normalizer": torch.tensor(3)}]
# Each reduction in float64; the other dtypes differ in their rounding, which the mean shows.
DTYPES_AND_OPTIONS = [*[(torch.float64, options) for options in OPTIONS], *[(dtype, {}) for dtype in DTYPES[1:]]]
grid = [
    pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"]),
    pytest.mark.parametrize("target", TARGETS),
    pytest.mark.parametrize(("dtype", "options"), DTYPES_AND_OPTIONS, ids=str),
    pytest.mark.parametrize("backend", BACKENDS_HERE),
]


def over_grid(test):
    for mark in grid:
        test = mark(test)
    return test


def check(name: str, values: torch.Tensor, target: torch.Tensor, weights: dict, options: dict, backend: str) -> None:
    dtype = values.dtype
    input, target = leaf(values), leaf(target[: len(values)])
    with running_on(backend, name, input):
        got = measured(
            lambda: getattr(xent, name)(input, target, **weights, **options), {"input": input, "target": target}
        )
    assert got["loss"].dtype == stats_dtype(dtype)
    truth = getattr(elementwise_oracle, name)(input, target.detach(), **weights, **options)
    upstream = upstream_for(tuple(got["loss"].shape), torch.float64)
    for figure in ("grad.input", "grad.target"):
        truth.figures[figure].value = truth.figures[figure].value * upstream.numpy()
    assert_within_budget(truth, got, {}, torch.finfo(stats_dtype(dtype)).eps, skip=undefined(name, values, got))


def undefined(name: str, values: torch.Tensor, got: dict[str, torch.Tensor]) -> tuple[str, ...]:
    """Gradients without a promise: of a NaN mean; and of the target at x = 0 and 1, where torch gives ln 0."""
    if not got["loss"].isfinite().all():
        return ("grad.input", "grad.target")
    at_the_end = name == "binary_cross_entropy" and bool(((values == 0) | (values == 1)).any())
    return ("grad.target",) if at_the_end else ()


@over_grid
@pytest.mark.parametrize("values", LOGITS)
def test_with_logits(values, backend, dtype, target, weighted, options):
    weights = {"weight": HALVES.to(dtype), "pos_weight": HALVES.flip(0).to(dtype)} if weighted else {}
    target = TARGETS[target].to(dtype) if TARGETS[target].is_floating_point() else TARGETS[target]
    check("binary_cross_entropy_with_logits", LOGITS[values].to(dtype), target, weights, options, backend)


@over_grid
@pytest.mark.parametrize("values", PROBABILITIES)
def test_of_probabilities(values, backend, dtype, target, weighted, options):
    weights = {"weight": HALVES.to(dtype)} if weighted else {}
    target = TARGETS[target].to(dtype) if TARGETS[target].is_floating_point() else TARGETS[target]
    check("binary_cross_entropy", PROBABILITIES[values].to(dtype), target, weights, options, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_reference_keeps_its_digits_where_the_loss_is_tiny(dtype: torch.dtype) -> None:
    """Loss and gradient of a right answer are e^−|x| but for a factor: no digit of them is in a difference from x."""
    far = torch.tensor([5.0, 16.0, 30.0, 80.0], dtype=torch.float64)
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    input, target = (signs * far).to(dtype).requires_grad_(), ((signs + 1) / 2).expand(2, 4).to(dtype)
    with xent.backend("reference"):
        loss = xent.binary_cross_entropy_with_logits(input, target, reduction="none")
    loss.sum().backward()
    small, eps = far.neg().exp(), torch.finfo(dtype).eps
    truth = {"rtol": 8 * eps, "atol": 0.0, "check_dtype": False}
    torch.testing.assert_close(loss.detach(), small.log1p().expand(2, 4), **truth)
    torch.testing.assert_close(input.grad, -signs * small / (1 + small), **truth)


def test_infinite_logits_on_the_reference() -> None:
    infinite = torch.tensor([torch.inf, -torch.inf])
    with xent.backend("reference"):
        wrong = xent.binary_cross_entropy_with_logits(infinite, torch.tensor([0, 1]), reduction="none")
        right = xent.binary_cross_entropy_with_logits(infinite, torch.tensor([1, 0]), reduction="none")
    assert wrong.tolist() == [torch.inf, torch.inf]
    assert right.isnan().all()
