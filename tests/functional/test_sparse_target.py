"""`SparseTarget` against the truth of the dense target that it stands for, on the table of edge cases, and by itself.

Every combination of options is in test_option_grid.py; what native never makes of it in tests/native.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import default_collate

import xent
from tests.edge_cases import BACKENDS_HERE, CASES, DTYPES, FINITE, EdgeCase, running_on
from tests.functional.budget import assert_within_budget, leaf, measured, plain_cross_entropy, stats_dtype
from tests.functional.test_edge_cases import truth_of

backends = pytest.mark.parametrize("backend", BACKENDS_HERE)
INDICES = torch.tensor([[4, 1, 1], [0, 2, 3], [3, 3, 0]])
PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.5, 0.125, 0.125]], dtype=torch.float64)


def sparse_of(case: EdgeCase, target: torch.Tensor, dim: int) -> xent.SparseTarget:
    """Two entries for each class, half of its probability each; of a class index itself and padding beside it."""
    if not case.hard:
        half = target.movedim(dim, -1) / 2
        classes = torch.arange(half.shape[-1]).flip(0).expand(half.shape)
        return xent.SparseTarget(torch.cat([classes.flip(-1), classes], -1), torch.cat([half, half.flip(-1)], -1))
    indices = target.long().unsqueeze(-1)
    padding = torch.full_like(indices, case.options.get("ignore_index", -100))
    ones = torch.ones(indices.shape, dtype=torch.float64)
    return xent.SparseTarget(torch.cat([padding, indices], -1), torch.cat([torch.nan * ones, ones], -1))


def stands_for(case: EdgeCase) -> bool:
    """A class index is more than its probability: its class weight counts in the denominator."""
    return not (case.hard and "weight" in case.options)


GRID = [("", case) for case in CASES if stands_for(case)] + [
    ("linear", case) for case in FINITE if stands_for(case) and case.logits(torch.float64).numel() < 10_000
]  # hidden · Iᵀ is hidden, exactly, where all numbers are finite


@pytest.mark.parametrize(("linear", "case"), GRID, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@backends
def test_edge_cases(backend, linear, dtype, case):
    input, target, options = case.make(dtype)
    dim = options.pop("dim", min(input.ndim - 1, 1))
    input, sparse = leaf(input), sparse_of(case, target, dim)
    identity = torch.eye(input.shape[dim], dtype=dtype) if linear else None

    def loss() -> torch.Tensor:
        if identity is None:
            return xent.cross_entropy(input, sparse, dim=dim, **options)
        return xent.linear_cross_entropy(input, identity, sparse, dim=dim, **options)

    with running_on(backend, "linear_cross_entropy" if linear else "cross_entropy", input):
        got = measured(loss, {"input": input})
    plain = measured(lambda: plain_cross_entropy(input, target, {**options, "dim": dim}), {"input": input})
    skip = () if case.gradient else ("grad.input",)
    unit = torch.finfo(stats_dtype(dtype)).eps
    assert got["loss"].dtype == stats_dtype(dtype)
    assert_within_budget(truth_of(case, dtype, "mean"), got, plain, unit, skip=skip)


@backends
def test_entries_add_up_and_need_not_sum_to_one(backend):
    """A row of zeros counts: its loss is 0, or that of the smoothing, and its weight 1."""
    dense = torch.zeros(3, 5, dtype=torch.float64).scatter_add(1, INDICES, PROBABILITIES)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
        with xent.backend(backend):
            loss, rows = xent.cross_entropy(logits, xent.SparseTarget(INDICES, PROBABILITIES), stats=True, **options)
            wanted, wanted_rows = xent.cross_entropy(logits, dense, stats=True, **options)
        for got, want in zip((loss, *rows), (wanted, *wanted_rows), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-14, atol=1e-15)
    assert rows.weight.tolist() == [1, 1, 1]


@backends
@pytest.mark.parametrize("linear", [False, True], ids=["", "linear"])
def test_a_row_of_padding_is_an_ignored_row(backend, linear):
    """Whatever its logits, finite or not, and its row weight: it is not there."""
    indices, head = INDICES.clone(), torch.eye(5, dtype=torch.float64)
    indices[1] = -100
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[1, 2] = torch.inf
    row_weight = torch.tensor([1.0, 7.0, 2.0])

    def both(logits: torch.Tensor, target: xent.SparseTarget, row_weight: torch.Tensor) -> tuple:
        options = {"row_weight": row_weight, "z_loss": 0.1, "label_smoothing": 0.1, "stats": True}
        logits = leaf(logits)
        if linear:
            loss, rows = xent.linear_cross_entropy(logits, head, target, **options)
        else:
            loss, rows = xent.cross_entropy(logits, target, **options)
        return loss, rows, torch.autograd.grad(loss, logits)[0]

    kept = torch.tensor([0, 2])
    with xent.backend(backend):
        loss, rows, _ = both(logits, xent.SparseTarget(indices, PROBABILITIES), row_weight)
        alone, of_kept, _ = both(logits[kept], xent.SparseTarget(INDICES[kept], PROBABILITIES[kept]), row_weight[kept])
        finite, _, gradient = both(logits.clamp(max=9), xent.SparseTarget(indices, PROBABILITIES), row_weight)
    torch.testing.assert_close(loss, alone)
    torch.testing.assert_close(finite, alone)
    assert gradient[1].count_nonzero() == 0
    for name in ("loss", "lse", "entropy", "z_loss", "weight"):
        torch.testing.assert_close(getattr(rows, name)[kept], getattr(of_kept, name))
        assert getattr(rows, name)[1] == 0
    assert (rows.prediction[1], rows.correct[1]) == (-1, False)


@backends
@pytest.mark.parametrize("linear", [False, True], ids=["", "linear"])
def test_derivatives_of_both_orders(backend, linear):
    draw = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 4), (5, 4)))
    indices = INDICES.clone()
    indices[2, 2] = -100

    def loss(hidden, head, probabilities, weight):
        target, options = xent.SparseTarget(indices, probabilities), {"label_smoothing": 0.1, "z_loss": 0.1}
        with xent.backend(backend):
            if linear:
                return xent.linear_cross_entropy(hidden, head, target, weight=weight, **options)
            return xent.cross_entropy(hidden @ head.T, target, weight, **options)

    inputs = hidden, head, PROBABILITIES, torch.rand(5, generator=draw, dtype=torch.float64)
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_it_goes_through_torch_func_and_a_data_loader():
    target, logits = xent.SparseTarget(INDICES, PROBABILITIES), torch.randn(3, 5, dtype=torch.float64)
    rows = torch.vmap(lambda x, y: xent.cross_entropy(x, y, reduction="none"))(logits, target)
    torch.testing.assert_close(rows, xent.cross_entropy(logits, target, reduction="none"))
    batch = default_collate([xent.SparseTarget(i, p) for i, p in zip(*target, strict=True)])
    assert isinstance(batch, xent.SparseTarget)
    assert torch.equal(batch.indices, INDICES)


def test_a_module_takes_it_and_a_choice_knows_it():
    target = xent.SparseTarget(INDICES, PROBABILITIES)
    logits = torch.randn(3, 5)
    torch.testing.assert_close(xent.nn.CrossEntropyLoss()(logits, target), xent.cross_entropy(logits, target))
    assert xent.nn.LinearCrossEntropyLoss(4, 5)(torch.randn(3, 4), target).isfinite()
    assert xent.choices(logits, target).chosen == xent.choices(logits, target=target).chosen == BACKENDS_HERE[-1]
