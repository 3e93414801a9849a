"""The shared table of edge cases and grid of options on the Triton column; the budget is that of tests/functional.

By default a sample, each member with one dtype in turn; marked slow, all of it. The interpreter's numbers are numpy's:
what they prove is the algorithm, in the dtypes of the kernels, not a GPU's rounding.
"""

from __future__ import annotations

import pytest
import torch

import xent
from tests.edge_cases import CASES, DTYPES, FINITE
from tests.functional import test_edge_cases as table
from tests.functional import test_option_grid as grid
from tests.functional import test_sparse_target as sparse

slow = pytest.mark.slow
TABLE = [row for row in table.GRID if table.is_small(row[0])]
SMALL = [case for case in CASES if table.is_small(case)]
NARROW = [row for row in TABLE if row[0].logits(torch.float64).numel() < 200 and row[1] == "mean"]


def sampled(rows: list, every: int) -> list:
    """All of them, those of a sample unmarked: the first of each `every`, shifted so that dtypes take turns."""
    keep = {(i * every + i % every) for i in range(len(rows) // every + 1)}
    return [pytest.param(row, marks=() if i in keep else slow) for i, row in enumerate(rows)]


def name_of(value: object) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    return "-".join(str(part).removeprefix("torch.") for part in parts)


@pytest.mark.parametrize("row", sampled(TABLE, 13), ids=name_of)
def test_edge_cases(row):
    case, reduction, dtype = row
    table.test_cross_entropy("triton", dtype, case, reduction)


@pytest.mark.parametrize("row", sampled(NARROW, 8), ids=name_of)
def test_edge_cases_in_several_blocks(row, small_tiles):
    case, reduction, dtype = row
    table.test_cross_entropy("triton", dtype, case, reduction)


@pytest.mark.parametrize("case", [case for case in CASES if not table.is_small(case)], ids=str)
def test_many_classes(case):
    table.test_cross_entropy("triton", torch.bfloat16, case, "mean")


@pytest.mark.parametrize("row", sampled([(case, dtype) for case in SMALL for dtype in DTYPES], 17), ids=name_of)
def test_statistics(row):
    case, dtype = row
    table.test_statistics("triton", dtype, case)
    if case.gradient:
        table.test_gradients_of_the_statistics("triton", dtype, case)


def test_statistics_of_rows_without_a_softmax_in_several_blocks(small_tiles):
    table.test_statistics_of_rows_without_a_softmax("triton", False)


@pytest.mark.parametrize(
    "row", sampled([row for row in sparse.GRID if not row[0] and table.is_small(row[1])], 8), ids=name_of
)
def test_sparse_targets(row):
    linear, case = row
    sparse.test_edge_cases("triton", linear, torch.float32, case)


@pytest.mark.parametrize("chosen", sampled(grid.GRID, 2), ids=grid.id_of)
def test_option_grid(chosen):
    grid.test_cross_entropy("triton", chosen)


@pytest.mark.parametrize("chosen", [pytest.param(chosen, marks=slow) for chosen in grid.GRID], ids=grid.id_of)
def test_option_grid_in_several_blocks(chosen, small_tiles):
    grid.test_cross_entropy("triton", chosen)


def test_entries_of_a_sparse_target():
    sparse.test_entries_add_up_and_need_not_sum_to_one("triton")
    sparse.test_a_row_of_padding_is_an_ignored_row("triton", False)


def test_an_ignored_row_of_any_logits_has_no_gradient():
    for odd in (torch.inf, -torch.inf, torch.nan):
        for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01}, {"softcap": 5.0}):
            table.test_an_ignored_row_of_any_logits_has_no_gradient("triton", odd, options)


@pytest.mark.parametrize(
    "row", sampled([(case, dtype) for case in FINITE if table.is_small(case) for dtype in DTYPES], 31), ids=name_of
)
def test_it_is_the_same_twice(row):
    """Sums in one order: equal to the last bit."""
    case, dtype = row
    results = []
    for _ in range(2):
        leaves, options = table.leaves_of(case, dtype)
        with xent.backend("triton"):
            loss = xent.cross_entropy(leaves["input"], leaves["target"], **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves["input"])))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@slow
def test_derivatives_of_both_orders():
    sparse.test_derivatives_of_both_orders("triton", False)
