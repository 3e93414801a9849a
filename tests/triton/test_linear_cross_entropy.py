"""linear_cross_entropy and token_logprobs on the Triton column: the shared grid, chunks, and no logits at all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.edge_cases import DTYPES, FINITE
from tests.functional import test_edge_cases as table
from tests.functional import test_linear_cross_entropy as shapes
from tests.functional import test_option_grid as grid
from tests.functional import test_sparse_target as sparse
from tests.functional import test_token_logprobs as tokens
from tests.triton.test_cross_entropy import name_of, sampled
from xent.backends.triton import linear_plan
from xent.errors import BackendError, XentError

slow = pytest.mark.slow


@pytest.mark.parametrize("chosen", sampled(grid.GRID, 3), ids=grid.id_of)
def test_option_grid(chosen):
    grid.test_linear_cross_entropy("triton", chosen)


@pytest.mark.parametrize(
    "row", sampled([(case, dtype) for case in FINITE if table.is_small(case) for dtype in DTYPES], 13), ids=name_of
)
def test_edge_cases(row):
    case, dtype = row
    table.test_linear_cross_entropy_with_the_identity_as_weight("triton", dtype, case)


@pytest.fixture
def chunks_of_few_rows(monkeypatch):
    """One row of five float64 logits, two of float32, four of half."""
    monkeypatch.setattr(linear_plan, "_FEWEST", 1)
    monkeypatch.setattr(linear_plan, "_DEFAULT", 45)


@pytest.fixture
def no_logits(monkeypatch):
    monkeypatch.setattr(linear_plan, "_DEFAULT", 1)


ONE_PRODUCT = [chosen for chosen in grid.GRID if chosen["layout"] != "NCde"]
EVERY_SIXTH = [pytest.param(chosen, marks=slow if i % 6 else ()) for i, chosen in enumerate(ONE_PRODUCT)]


@pytest.mark.parametrize("chosen", EVERY_SIXTH, ids=grid.id_of)
def test_option_grid_in_chunks(chosen, chunks_of_few_rows):
    grid.test_linear_cross_entropy("triton", chosen)


@pytest.mark.parametrize("chosen", EVERY_SIXTH, ids=grid.id_of)
def test_option_grid_without_logits(chosen, no_logits):
    grid.test_linear_cross_entropy("triton", chosen)


def test_shapes():
    for shape in ((shapes.D,), (shapes.N, shapes.D), (2, shapes.N, shapes.T, shapes.D)):
        for reduction in ("mean", "none"):
            shapes.test_any_leading_dimensions("triton", shape, reduction)
    shapes.test_features_in_dim_1("triton")
    if hasattr(torch.nn.functional, "linear_cross_entropy"):  # from torch 2.12 on
        shapes.test_k_dimensional_weight_is_torchs("triton", (2, 3), True)
    shapes.test_shift_scores_the_next_token("triton", 1, -1)
    shapes.test_tied_weight_gets_both_gradients("triton")
    shapes.test_input_may_be_the_weight_itself("triton")
    shapes.test_no_rows_and_ignore_index_none("triton")
    shapes.test_a_normalizer_gets_its_gradient("triton", (True, True, True))


@pytest.mark.parametrize("linear", [False, True])
def test_sparse_targets_and_log_probabilities(linear):
    sparse.test_a_row_of_padding_is_an_ignored_row("triton", linear)
    shapes.test_token_logprobs("triton", linear)
    tokens.test_no_rows_one_row_and_only_one_asked_for("triton")
    tokens.test_a_shift_that_leaves_no_rows_gives_gradients_of_zero("triton", linear)
    table.test_statistics_of_rows_without_a_softmax("triton", linear)


def test_statistics_of_rows_without_a_softmax_nor_logits(no_logits):
    table.test_statistics_of_rows_without_a_softmax("triton", True)


@slow
@pytest.mark.parametrize("linear", [False, True])
def test_equals_come_in_the_order_of_their_class(linear):
    tokens.test_equals_come_in_the_order_of_their_class("triton", linear, torch.bfloat16)


@pytest.mark.parametrize("top", [1, 4, tokens.C])
@pytest.mark.parametrize("linear", [False, True])
def test_log_probabilities_of_the_best_classes(linear, top):
    for options in tokens.OPTIONS:
        tokens.test_values_and_gradients("triton", linear, options, top)


def test_few_equals_come_in_the_order_of_their_class(small_tiles):
    logits = torch.tensor([[0.0, 1, 1, 0, 2, 2], [0, 0, 0, 0, 0, 0], [-torch.inf, 3, -torch.inf, 3, -torch.inf, 1]])
    with xent.backend("triton"):
        got = xent.token_logprobs(logits, torch.zeros(3, dtype=torch.int64), top=6)
    assert got.top_indices.tolist() == [[4, 5, 1, 2, 0, 3], [0, 1, 2, 3, 4, 5], [1, 3, 5, 0, 2, 4]]


def layer(rows: int, features: int, classes: int, dtype=torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, features, generator=generator) for size in (rows, classes))
    target = torch.randint(classes, (rows,), generator=generator)
    return (3 * hidden).to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), target


def gradients(hidden, weight, target, **options):
    with xent.backend("triton"):
        loss = xent.linear_cross_entropy(hidden, weight, target, **options)
    return torch.autograd.grad(loss, (hidden, weight))


def test_a_second_backward_and_another_factor(chunks_of_few_rows):
    """Handed out once, made again: the same to the last bit; a factor is that of the chain rule."""
    hidden, weight, target = layer(6, 4, 5)
    with xent.backend("triton"):
        loss = xent.linear_cross_entropy(hidden, weight, target)
    first, again = (torch.autograd.grad(loss, (hidden, weight), retain_graph=True) for _ in range(2))
    scaled = torch.autograd.grad(loss, (hidden, weight), torch.tensor(-4.0))
    for one, same, other in zip(first, again, scaled, strict=True):
        assert torch.equal(one, same)
        torch.testing.assert_close(other, -4 * one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_that_do_not_fit_the_problem(dtype):
    """Without logits, in blocks of 64 rows, 64 classes, 32 features and 256: none of the sizes is a multiple."""
    hidden, weight, target = layer(70, 37, 131, dtype)
    target[3] = -100
    truth = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    wanted = torch.autograd.grad(F.cross_entropy(truth[0] @ truth[1].t(), target), truth)
    for got, want in zip(gradients(hidden, weight, target, max_memory=1), wanted, strict=True):
        most = 1e-6 if dtype == torch.float32 else 2**-8  # float32 sums, or one rounding of G and one of the result
        assert (got.double() - want).norm() <= most * want.norm()


def test_a_gradient_filter_keeps_its_bound_and_is_off_by_default():
    """|Δ hidden| ≤ τ |g| Σ|W| and |Δ weight| ≤ τ Σ |g hidden|, and it does leave something out."""
    hidden, weight, target = layer(64, 16, 256)
    with torch.no_grad():
        weight[:192] *= 0.02  # classes of the first three tiles: improbable
        hidden[:, 0], weight[:, 0], weight[192:, 0] = 9, -1, 1
    target = 192 + target % 64
    threshold, g = 2.0**-8, 1 / 64
    exact, default = (gradients(hidden, weight, target, max_memory=1, **o) for o in ({"gradient_filter": 0.0}, {}))
    filtered = gradients(hidden, weight, target, max_memory=1, gradient_filter=threshold)
    bounds = threshold * g * weight.abs().sum(0), threshold * g * hidden.abs().sum(0)
    for of_exact, of_default, of_filtered, bound in zip(exact, default, filtered, bounds, strict=True):
        assert torch.equal(of_exact, of_default)
        assert ((of_exact - of_filtered).abs() <= bound + 1e-7).all()
    assert (exact[1][:192] != 0).any()
    assert (filtered[1][:192] == 0).all(), "left out"
    for of_exact, of_chunks in zip(exact, gradients(hidden, weight, target, gradient_filter=0.5), strict=True):
        torch.testing.assert_close(of_chunks, of_exact, rtol=1e-4, atol=1e-6)  # chunks are exact whatever it says


def test_memory_that_a_plan_promises():
    assert linear_plan.plan(8192, 256000, 2, None) == linear_plan.Plan(1024, 1024 * 256000 * 2)
    assert linear_plan.plan(8192, 256000, 2, 16 << 20).memory + 8192 * 40 <= 16 << 20  # ten float32 of each row
    assert linear_plan.plan(8192, 256000, 2, 1 << 20) == linear_plan.Plan(0, 0)
    with pytest.raises(BackendError, match="32 rows of K-dimensional logits"):
        linear_plan.plan(8192, 256000, 2, 1 << 20, (3,))


@pytest.mark.parametrize(
    ("value", "error"), [(-1.0, "0 or more"), (float("nan"), "0 or more"), ("a", "it is a number")]
)
def test_a_gradient_filter_is_a_number(value, error):
    with pytest.raises(XentError, match=error):
        xent.linear_cross_entropy(*layer(2, 3, 4), gradient_filter=value)
