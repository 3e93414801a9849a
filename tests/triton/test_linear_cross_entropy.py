"""linear_cross_entropy and token_logprobs on the Triton column: the shared grid, chunks, and no logits at all."""

from __future__ import annotations

import pytest

from tests.edge_cases import DTYPES, FINITE
from tests.functional import test_edge_cases as table
from tests.functional import test_option_grid as grid
from tests.triton.test_cross_entropy import name_of, sampled

slow = pytest.mark.slow


@pytest.mark.parametrize("chosen", grid.GRID, ids=grid.id_of)
def test_option_grid(chosen):
    grid.test_linear_cross_entropy("triton", chosen)


@pytest.mark.parametrize(
    "row", sampled([(case, dtype) for case in FINITE if table.is_small(case) for dtype in DTYPES], 6), ids=name_of
)
def test_edge_cases(row):
    case, dtype = row
    table.test_linear_cross_entropy_with_the_identity_as_weight("triton", dtype, case)
