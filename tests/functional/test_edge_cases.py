"""Every edge case on every backend and dtype: values, gradients and statistics against the truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

import xent
from tests import oracle
from tests.edge_cases import BACKENDS_HERE, CASES, DTYPES, FINITE, EdgeCase, running_on
from tests.functional import elementwise_oracle
from tests.functional.budget import (
    assert_within_budget,
    leaf,
    measured,
    plain_cross_entropy,
    plain_logits,
    stats_dtype,
    upstream_for,
)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
backends = pytest.mark.parametrize("backend", BACKENDS_HERE)
REDUCTIONS = ("mean", "sum", "none")
NLL_OPTIONS = ("weight", "ignore_index", "row_weight", "normalizer", "dim", "shift")
TOKEN_OPTIONS = ("ignore_index", "softcap", "logit_scale", "shift")


def cases(table, *wanted):
    """Parametrise over a part of the table."""
    return pytest.mark.parametrize("case", [case for case in table if all(want(case) for want in wanted)], ids=str)


def is_small(case: EdgeCase) -> bool:
    return case.logits(torch.float32).numel() < 10_000


def is_hard(case: EdgeCase) -> bool:
    return case.hard


@cache
def truth_of(case: EdgeCase, dtype: torch.dtype, reduction: str, shape: tuple[int, ...] = ()) -> oracle.Truth:
    """The truth of one problem; `shape` is that of its loss."""
    input, target, options = case.make(dtype)
    upstream = upstream_for(shape, torch.float64)
    return oracle.cross_entropy(input, target, oracle.Options(reduction=reduction, **options), upstream)


@cache
def statistics_of(case: EdgeCase, dtype: torch.dtype) -> oracle.Truth:
    """The truth of the statistics of one problem."""
    input, target, options = case.make(dtype)
    return oracle.statistics(input, target, oracle.Options(**options))


def leaves_of(case: EdgeCase, dtype: torch.dtype):
    input, target, options = case.make(dtype)
    names = {"input": leaf(input), "target": leaf(target)}
    names |= {name: leaf(options[name]) for name in ("weight", "row_weight") if name in options}
    if not case.gradient:
        names = {name: tensor.detach() for name, tensor in names.items()}
        names["input"].requires_grad_()  # NaN or not, it must be possible
    return names, {**options, **{k: v for k, v in names.items() if k in options}}


def fits_reduction(case: EdgeCase, reduction: str) -> bool:
    return reduction == "mean" or "normalizer" not in case.options


# Sums and rows of half inputs differ from their mean by a factor alone: the wide dtypes show that it is right.
DTYPES_OF = {"mean": DTYPES, "sum": (torch.float64, torch.float32), "none": (torch.float64, torch.float32)}
GRID = [
    (case, reduction, dtype)
    for case in CASES
    for reduction in REDUCTIONS
    for dtype in DTYPES_OF[reduction]
    if fits_reduction(case, reduction)
]


@pytest.mark.parametrize(("case", "reduction", "dtype"), GRID, ids=str)
@backends
def test_cross_entropy(backend, dtype, case, reduction):
    leaves, options = leaves_of(case, dtype)
    before = {name: tensor.detach().clone() for name, tensor in leaves.items()}
    with running_on(backend, "cross_entropy", leaves["input"]):
        got = measured(
            lambda: xent.cross_entropy(leaves["input"], leaves["target"], reduction=reduction, **options), leaves
        )
    plain = measured(
        lambda: plain_cross_entropy(leaves["input"], leaves["target"], {**options, "reduction": reduction}), leaves
    )
    assert got["loss"].dtype == stats_dtype(dtype)
    for name, tensor in leaves.items():
        torch.testing.assert_close(tensor.detach(), before[name], rtol=0, atol=0, equal_nan=True)
        assert f"grad.{name}" not in got or got[f"grad.{name}"].dtype == tensor.dtype
    truth = truth_of(case, dtype, reduction, tuple(got["loss"].shape))
    unusual = () if case.gradient else tuple(name for name in got if name != "loss")
    assert_within_budget(truth, got, plain, torch.finfo(stats_dtype(dtype)).eps, skip=(*unusual, *undefined(truth)))


def undefined(truth: oracle.Truth) -> tuple[str, ...]:
    """d loss / d q is −w·ln p: infinite at p = 0, and not promised there."""
    target = truth.figures.get("grad.target")
    return () if target is None or np.isfinite(target.value).all() else ("grad.target",)


@cases(CASES)
@dtypes
@backends
def test_statistics(backend, dtype, case):
    leaves, options = leaves_of(case, dtype)
    with running_on(backend, "cross_entropy", leaves["input"]):
        loss, rows = xent.cross_entropy(leaves["input"], leaves["target"], stats=True, **options)
        alone = xent.cross_entropy(leaves["input"], leaves["target"], **options)
    # strided classes take another loop with statistics, whose sums have another order: a rounding or two apart
    torch.testing.assert_close(loss, alone, rtol=4 * torch.finfo(loss.dtype).eps, atol=0, equal_nan=True)
    truth = statistics_of(case, dtype)
    got = {"loss": loss, **{f"rows.{n}": getattr(rows, n) for n in ("loss", "lse", "entropy", "z_loss", "weight")}}
    assert all(value.dtype == stats_dtype(dtype) for value in got.values())
    finite = np.isfinite(np.asarray(truth.best, dtype=float))
    if not finite.all():  # a row without a finite maximum has no statistics worth a promise
        got = {"loss": got["loss"], "rows.loss": got["rows.loss"]}
    assert_within_budget(truth, got, {}, 4 * torch.finfo(stats_dtype(dtype)).eps)
    if finite.all():
        _check_predictions(rows, truth, leaves["target"], case)


def _check_predictions(rows, truth, target, case) -> None:
    assert rows.prediction.dtype == torch.int64
    assert rows.correct.dtype == torch.bool
    assert rows.prediction.shape == rows.correct.shape == rows.loss.shape
    predictions, correct = rows.prediction.reshape(-1).tolist(), rows.correct.reshape(-1).tolist()
    for row, (prediction, is_correct) in enumerate(zip(predictions, correct, strict=True)):
        if not truth.counted[row]:
            assert (prediction, is_correct) == (-1, False)
            continue
        assert abs(float(truth.z[row, prediction] - truth.best[row])) <= 1e-6 * abs(float(truth.best[row]))
        if case.hard:
            assert is_correct == (prediction == int(truth.true_class[row]))


def plain_statistic(name: str, case: EdgeCase, input: torch.Tensor) -> torch.Tensor:
    z = plain_logits(input, case.options)
    lse = z.logsumexp(-1)
    if name == "entropy":
        lse = lse - (z.softmax(-1) * z.masked_fill(z == -torch.inf, 0)).sum(-1)
    return lse if not case.hard else lse * (counted_targets(case) != case.options.get("ignore_index", -100))


def counted_targets(case: EdgeCase) -> torch.Tensor:
    return case.target.long()[..., case.options.get("shift", 0) :] if case.target.ndim else case.target.long()


@cases(CASES, is_small, lambda case: case.gradient)
@dtypes
@backends
def test_gradients_of_the_statistics(backend, dtype, case):
    input, target, options = case.make(dtype)
    input = leaf(input)
    with running_on(backend, "cross_entropy", input):
        _, rows = xent.cross_entropy(input, target, stats=True, **options)
    truth, unit = statistics_of(case, dtype), torch.finfo(stats_dtype(dtype)).eps
    for name in ("lse", "entropy"):
        (got,) = torch.autograd.grad(getattr(rows, name).sum(), input, retain_graph=True)
        (plain,) = torch.autograd.grad(plain_statistic(name, case, input).sum(), input)
        assert_within_budget(truth, {f"grad.{name}": got}, {f"grad.{name}": plain}, unit)


@cases(FINITE, is_small)
@dtypes
@backends
def test_linear_cross_entropy_with_the_identity_as_weight(backend, dtype, case):
    """hidden · Iᵀ is hidden, exactly: the table is a table of linear_cross_entropy too."""
    leaves, options = leaves_of(case, dtype)
    input, options = leaves["input"], {"dim": min(leaves["input"].ndim - 1, 1), **options}
    identity = torch.eye(input.shape[options["dim"]], dtype=dtype)
    with running_on(backend, "linear_cross_entropy", input):
        got = measured(lambda: xent.linear_cross_entropy(input, identity, leaves["target"], **options), leaves)
    plain = measured(lambda: plain_cross_entropy(input, leaves["target"], options), leaves)
    truth = truth_of(case, dtype, "mean")
    assert got["loss"].dtype == stats_dtype(dtype)
    assert_within_budget(truth, got, plain, torch.finfo(stats_dtype(dtype)).eps)


@pytest.mark.parametrize(("case", "reduction", "dtype"), [row for row in GRID if is_hard(row[0])], ids=str)
@backends
def test_nll_loss(backend, dtype, case, reduction):
    leaves, options = leaves_of(case, dtype)
    options = {name: value for name, value in options.items() if name in NLL_OPTIONS}
    leaves = {name: tensor for name, tensor in leaves.items() if name in ("input", *options)}
    input, target = leaves["input"], case.target
    with running_on(backend, "nll_loss", input):
        got = measured(lambda: xent.nll_loss(input, target, reduction=reduction, **options), leaves)
    upstream = upstream_for(tuple(got["loss"].shape), torch.float64)
    truth = oracle.nll_loss(input, target, oracle.Options(reduction=reduction, **options), upstream)
    assert got["loss"].dtype == stats_dtype(dtype)
    unusual = () if case.gradient else tuple(name for name in got if name != "loss")
    assert_within_budget(truth, got, {}, torch.finfo(stats_dtype(dtype)).eps, skip=unusual)


@cases(CASES, is_hard)
@dtypes
@backends
def test_token_logprobs(backend, dtype, case):
    input, target, options = case.make(dtype)
    dim = options.get("dim", min(input.ndim - 1, 1))
    options = {name: value for name, value in options.items() if name in TOKEN_OPTIONS}
    input = leaf(input)
    with running_on(backend, "token_logprobs", input):
        got = measured(lambda: -xent.token_logprobs(input, target, dim=dim, **options), {"input": input})
    upstream = upstream_for(tuple(got["loss"].shape), torch.float64)
    truth = oracle.cross_entropy(input, target, oracle.Options(reduction="none", dim=dim, **options), upstream)
    unusual = () if case.gradient else ("grad.input",)
    assert_within_budget(truth, got, {}, 4 * torch.finfo(stats_dtype(dtype)).eps, skip=unusual)


@cases(CASES, lambda case: case.logits(torch.float64).numel() > 0)
@dtypes
@backends
@pytest.mark.parametrize("function", ["log_softmax", "logsumexp"])
def test_log_softmax_and_logsumexp(backend, dtype, case, function):
    input = leaf(case.make(dtype)[0])
    dim = min(input.ndim - 1, 1)
    with running_on(backend, function, input):
        got = measured(lambda: getattr(xent, function)(input, dim), {"input": input})
    plain = measured(lambda: getattr(torch, function)(input, dim), {"input": input})
    upstream = upstream_for(tuple(got["loss"].shape), torch.float64)
    truth = getattr(elementwise_oracle, function)(input, dim, upstream)
    assert got["loss"].dtype == dtype
    unusual = () if bool(input.isfinite().all()) else ("grad.input",)
    unit = torch.finfo(stats_dtype(dtype)).eps
    assert_within_budget(truth, got, plain if dtype == stats_dtype(dtype) else {}, unit, skip=unusual)


@backends
@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.01}, {"softcap": 5.0}], ids=str)
def test_an_ignored_row_of_any_logits_has_no_gradient(backend, odd, options):
    logits = torch.tensor([[1.0, odd, 0.0], [odd, odd, odd], [1.0, 2.0, 3.0]], requires_grad=True)
    with running_on(backend, "cross_entropy", logits):
        loss = xent.cross_entropy(logits, torch.tensor([-100, -100, 1]), **options)
    loss.backward()
    alone = logits.detach()[2:].requires_grad_()
    with running_on(backend, "cross_entropy", alone):
        xent.cross_entropy(alone, torch.tensor([1]), **options).backward()
    assert logits.grad[:2].eq(0).all()
    torch.testing.assert_close(logits.grad[2:], alone.grad)


INF, NAN = torch.inf, torch.nan
ODD_ROWS = [
    [-INF, -INF, -INF, -INF, -INF],
    [1.0, INF, 2.0, 0.5, -INF],
    [0.0, 0.0, 0.0, INF, INF],
    [-INF, -INF, NAN, -INF, -INF],
    [1.0, 0.0, 0.0, 0.0, NAN],
    [INF, 0.0, 0.0, NAN, NAN],
    [NAN, 0.0, INF, 0.0, 0.0],
    [-INF, 1.0, 3.0, -INF, 2.0],
]


@backends
@pytest.mark.parametrize("linear", [False, True], ids=["", "linear"])
def test_statistics_of_rows_without_a_softmax(backend, linear):
    """Logsumexp is ±inf where nothing is NaN, the z-term its square, and the first NaN the largest logit."""
    for row in ODD_ROWS:
        logits, target, options = torch.tensor([row]), torch.tensor([1]), {"z_loss": 0.5, "stats": True}
        with xent.backend(backend):
            if linear:  # one feature of 1: a sum of one product, which is the logit
                _, rows = xent.linear_cross_entropy(torch.ones(1, 1), logits.mT.contiguous(), target, **options)
            else:
                _, rows = xent.cross_entropy(logits, target, **options)
        lse = logits.logsumexp(-1)
        torch.testing.assert_close(rows.lse, lse, equal_nan=True)
        torch.testing.assert_close(rows.z_loss, 0.5 * lse.square(), equal_nan=True)
        assert rows.prediction.tolist() == logits.argmax(-1).tolist()
