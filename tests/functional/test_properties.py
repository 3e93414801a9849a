"""Properties, with hypothesis: agreement with torch in float64, and what any cross-entropy must satisfy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from tests.edge_cases import BACKENDS_HERE

pytestmark = pytest.mark.parametrize("backend", BACKENDS_HERE)
few = settings(max_examples=25, deadline=None, derandomize=True)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}  # float64: some thousand units of room on figures of order 1 to 10


@st.composite
def problems(draw, soft: bool | None = None):
    """Logits (N, C) or (N, C, d), a target and class weights, float64."""
    num_rows, num_classes = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    extra = draw(st.sampled_from([(), (2,), (2, 3)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = scale * torch.randn((num_rows, num_classes, *extra), generator=generator, dtype=torch.float64)
    weight = 0.1 + torch.rand(num_classes, generator=generator, dtype=torch.float64)
    if soft if soft is not None else draw(st.booleans()):
        target = torch.randn(logits.shape, generator=generator, dtype=torch.float64).softmax(1)
    else:
        target = torch.randint(num_classes, (num_rows, *extra), generator=generator)
    return logits, target, weight


def loss_and_grad(function, logits, *args, **options):
    input = logits.clone().requires_grad_()
    loss = function(input, *args, **options)
    (grad,) = torch.autograd.grad(loss.sum(), input)
    return loss.detach(), grad


def assert_same(ours, torchs):
    for mine, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


@few
@given(
    problem=problems(),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 0.7]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_cross_entropy_is_torchs(backend, problem, weighted, smoothing, reduction):
    logits, target, weight = problem
    arguments = (logits, target, weight if weighted else None)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    with xent.backend(backend):
        ours = loss_and_grad(xent.cross_entropy, *arguments, **options)
    assert_same(ours, loss_and_grad(F.cross_entropy, *arguments, **options))


@few
@given(problem=problems(soft=False), ignored=st.integers(0, 3), reduction=st.sampled_from(["mean", "sum", "none"]))
def test_ignored_rows_and_nll_are_torchs(backend, problem, ignored, reduction):
    logits, target, weight = problem
    target = target.clone()
    target.view(-1)[1:][:ignored] = -100  # the first row counts
    with xent.backend(backend):
        ours = loss_and_grad(xent.cross_entropy, logits, target, weight, reduction=reduction)
        nll = loss_and_grad(xent.nll_loss, logits, target, weight, reduction=reduction)
    assert_same(ours, loss_and_grad(F.cross_entropy, logits, target, weight, reduction=reduction))
    assert_same(nll, loss_and_grad(F.nll_loss, logits, target, weight, reduction=reduction))


@few
@given(problem=problems(soft=True), weighted=st.booleans(), reduction=st.sampled_from(["mean", "sum", "none"]))
def test_binary_losses_are_torchs(backend, problem, weighted, reduction):
    logits, target, _ = problem
    weight = logits.abs() + 0.5 if weighted else None
    options = {"weight": weight, "reduction": reduction}
    with xent.backend(backend):
        ours = loss_and_grad(xent.binary_cross_entropy_with_logits, logits, target, pos_weight=weight, **options)
        bare = loss_and_grad(xent.binary_cross_entropy, logits.sigmoid(), target, **options)
    assert_same(ours, loss_and_grad(F.binary_cross_entropy_with_logits, logits, target, pos_weight=weight, **options))
    assert_same(bare, loss_and_grad(F.binary_cross_entropy, logits.sigmoid(), target, **options))


@few
@given(problem=problems(), dim=st.sampled_from([0, 1, -1]))
def test_log_softmax_and_logsumexp_are_torchs(backend, problem, dim):
    logits = problem[0]
    with xent.backend(backend):
        ours = loss_and_grad(xent.log_softmax, logits, dim)
        lse = loss_and_grad(xent.logsumexp, logits, dim)
    assert_same(ours, loss_and_grad(F.log_softmax, logits, dim))
    assert_same(lse, loss_and_grad(torch.logsumexp, logits, dim))


@few
@given(problem=problems(), shift=st.floats(-1e3, 1e3))
def test_a_number_added_to_a_row_changes_nothing(backend, problem, shift):
    logits, target, weight = problem
    with xent.backend(backend):
        loss, grad = loss_and_grad(xent.cross_entropy, logits, target, weight)
        moved, moved_grad = loss_and_grad(xent.cross_entropy, logits + shift, target, weight)
    room = 16 * 2.3e-16 * (1 + abs(shift) + float(logits.abs().max()))  # logits + shift is rounded
    torch.testing.assert_close(moved, loss, rtol=0, atol=4 * room)
    torch.testing.assert_close(moved_grad, grad, rtol=0, atol=4 * room)


@few
@given(problem=problems(), seed=st.integers(0, 1000))
def test_renaming_classes_renames_gradients(backend, problem, seed):
    logits, target, weight = problem
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))
    renamed = target[:, order] if target.is_floating_point() else order.argsort()[target]
    with xent.backend(backend):
        loss, grad = loss_and_grad(xent.cross_entropy, logits, target, weight, label_smoothing=0.1)
        other, other_grad = loss_and_grad(
            xent.cross_entropy, logits[:, order], renamed, weight[order], label_smoothing=0.1
        )
    assert_same((other, other_grad), (loss, grad[:, order]))


@few
@given(problem=problems(), smoothing=st.sampled_from([0.0, 0.1]))
def test_gradient_of_a_row_sums_to_0(backend, problem, smoothing):
    logits, target, weight = problem
    with xent.backend(backend):
        _, grad = loss_and_grad(xent.cross_entropy, logits, target, weight, label_smoothing=smoothing)
    torch.testing.assert_close(grad.sum(1), torch.zeros_like(grad.sum(1)), rtol=0, atol=1e-14)


@few
@given(problem=problems(), z_loss=st.sampled_from([0.0, 0.01]))
def test_mean_is_sum_over_sum(backend, problem, z_loss):
    logits, target, weight = problem
    row_weight = torch.linspace(0.5, 2.0, len(logits)).view(-1, *[1] * (logits.ndim - 2))
    options = {"z_loss": z_loss, "row_weight": row_weight}
    with xent.backend(backend):
        mean, rows = xent.cross_entropy(logits, target, weight, stats=True, **options)
        total = xent.cross_entropy(logits, target, weight, reduction="sum", **options)
        each = xent.cross_entropy(logits, target, weight, reduction="none", **options)
        divided = xent.cross_entropy(logits, target, weight, normalizer=rows.weight.sum(), **options)
    torch.testing.assert_close(total, each.sum(), **CLOSE)
    torch.testing.assert_close(mean, total / rows.weight.sum(), **CLOSE)
    torch.testing.assert_close(divided, mean, **CLOSE)


@few
@given(problem=problems(soft=False))
def test_bounds(backend, problem):
    logits, target, _ = problem
    with xent.backend(backend):
        _, rows = xent.cross_entropy(logits, target, stats=True)
        tokens = xent.token_logprobs(logits, target, dim=1)
    assert bool((rows.loss >= 0).all())
    assert bool((rows.entropy <= math.log(logits.shape[1]) + 1e-12).all())
    assert bool((rows.lse >= logits.amax(1)).all())
    torch.testing.assert_close(tokens, -rows.loss, **CLOSE)


@few
@given(problem=problems(soft=True))
def test_one_hot_probabilities_are_class_indices(backend, problem):
    logits, target, weight = problem
    index = target.argmax(1)
    one_hot = F.one_hot(index, logits.shape[1]).movedim(-1, 1).double()
    options = {"reduction": "sum", "label_smoothing": 0.1}
    with xent.backend(backend):
        soft = loss_and_grad(xent.cross_entropy, logits, one_hot, weight, **options)
        hard = loss_and_grad(xent.cross_entropy, logits, index, weight, **options)
    assert_same(soft, hard)


def test_one_class_costs_exactly_0(backend):
    with xent.backend(backend):
        loss, grad = loss_and_grad(xent.cross_entropy, torch.tensor([[3.0], [-1e4]]), torch.tensor([0, 0]))
    assert loss == 0
    assert grad.count_nonzero() == 0


def test_results_are_equal_from_run_to_run(backend):
    logits = torch.randn(64, 1000, generator=torch.Generator().manual_seed(0))
    target = torch.arange(64)
    with xent.backend(backend):
        runs = [loss_and_grad(xent.cross_entropy, logits, target, label_smoothing=0.1) for _ in range(3)]
    assert all(torch.equal(loss, runs[0][0]) and torch.equal(grad, runs[0][1]) for loss, grad in runs)
