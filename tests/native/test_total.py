"""The sum or mean over the rows, and both passes of narrow rows in one: native/losses/cross_entropy_both.h."""

from __future__ import annotations

import pytest
import torch

import xent
from xent.errors import TargetRangeError

NARROW = 10
OPTIONS = [{}, {"label_smoothing": 0.1}, {"z_loss": 0.01}, {"reduction": "sum"}, {"normalizer": 7.0}]


def problem(rows: int = 2003, classes: int = NARROW) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.randint(0, classes, (rows,))
    target[::7] = -100
    return torch.randn(rows, classes), target


def value_and_gradient(x: torch.Tensor, target: torch.Tensor, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.detach().requires_grad_()
    with xent.backend("native"):
        loss = xent.cross_entropy(leaf, target, **options)  # type: ignore[arg-type]
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_pass_has_the_bits_of_two(isa: str, dtype: torch.dtype, options: dict[str, object]) -> None:
    """A row weight of 1 takes two passes, and changes no number."""
    numbers, target = problem()
    for x in (numbers.to(dtype), numbers.to(dtype)[:, :9], numbers[:5].to(dtype)):
        classes = target[: len(x)].clamp(max=x.shape[1] - 1)
        one = value_and_gradient(x, classes, **options)
        two = value_and_gradient(x, classes, row_weight=torch.ones(len(x)), **options)
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [0.25, 65536.0, 0.3])
def test_a_scaled_loss_has_the_bits_of_two_passes(isa: str, dtype: torch.dtype, factor: float) -> None:
    """The gradient of a mean over 65536 rows lies under float16's normal numbers, until a loss scaler lifts it."""
    x, target = torch.randn(65536, NARROW).to(dtype), torch.randint(0, NARROW, (65536,))
    gradients = []
    for row_weight in (None, torch.ones(65536)):  # a row weight of 1 takes two passes
        leaf = x.detach().requires_grad_()
        with xent.backend("native"):
            (factor * xent.cross_entropy(leaf, target, row_weight=row_weight)).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    if factor == 65536:
        assert bool((gradients[0] != 0).all())


@pytest.mark.parametrize("factor", [0.25, 65536.0, 0.3, -1.0, 0.0])
def test_any_upstream_gradient(isa: str, factor: float) -> None:
    """A power of two scales what the forward pass made, exactly; any other makes the gradient anew."""
    x, target = problem()
    leaf = x.requires_grad_()
    with xent.backend("native"):
        (factor * xent.cross_entropy(leaf, target)).backward()
        rows = xent.cross_entropy(leaf, target, reduction="none")
        (wanted,) = torch.autograd.grad(rows, leaf, torch.full_like(rows, factor) / (target >= 0).sum())
    assert leaf.grad is not None
    # Upstream over denominator is rounded once here and there, the product with p once more.
    assert bool(((leaf.grad - wanted).abs() <= 3 * 2.0**-24 * wanted.abs()).all())


def test_a_second_backward_has_the_same_bits_in_memory_of_its_own(isa: str) -> None:
    x, target = problem()
    leaf = x.requires_grad_()
    with xent.backend("native"):
        loss = xent.cross_entropy(leaf, target)
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, leaf)
    assert second.data_ptr() != first.data_ptr()
    assert torch.equal(first.mul_(2), 2 * kept)
    assert torch.equal(second, kept)


def test_logits_that_changed_since_are_refused() -> None:
    x, target = problem()
    leaf = x.requires_grad_() * 1.0
    with xent.backend("native"):
        loss = xent.cross_entropy(leaf, target)
    leaf.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_those_of_the_formula() -> None:
    x, target = problem(rows=6)
    leaf = x.double().requires_grad_()
    with xent.backend("native"):
        assert torch.autograd.gradgradcheck(lambda z: xent.cross_entropy(z, target, normalizer=3.0), leaf)


@pytest.mark.parametrize("bad", [NARROW, -1, -(2**62)])
@pytest.mark.parametrize("classes", [NARROW, 200])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_kernels_find_targets_out_of_range(isa: str, bad: int, classes: int, grad: bool, reduction: str) -> None:
    x, target = problem(classes=classes)
    target[[1501, 1999]] = bad if bad < 0 else classes
    with xent.backend("native"), pytest.raises(TargetRangeError, match=r"row \[1501\]"):
        xent.cross_entropy(x.requires_grad_(grad), target, reduction=reduction)


def test_nothing_counts(isa: str) -> None:
    x, target = problem()
    target[:] = -100
    loss, gradient = value_and_gradient(x, target)
    assert loss.isnan()
    assert bool((gradient == 0).all())
    loss, gradient = value_and_gradient(x, target, normalizer=5.0)
    assert loss == 0
    assert bool((gradient == 0).all())


def test_strided_targets_rows_and_upstreams(isa: str) -> None:
    x, target = problem(rows=4000)
    wide = torch.randn(4000, 3 * NARROW)
    wide[:, :NARROW] = x
    pairs = torch.stack([target, target + 1], 1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(value_and_gradient(x, target), value_and_gradient(wide[:, :NARROW], pairs[:, 0]), strict=True)
    )


@pytest.mark.parametrize("shape", [(65536, 10), (3000, 300)])
def test_bitwise_equal_for_any_number_of_threads(isa: str, shape: tuple[int, int]) -> None:
    x, target = problem(*shape)
    seen = []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        seen.append(value_and_gradient(x, target))
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("count", [0, 1, 15, 16384, 16385, 300_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_taken_in_double(isa: str, count: int, dtype: torch.dtype) -> None:
    from xent.backends.native.cross_entropy import sum_of_rows

    values = torch.rand(count, dtype=dtype) + 1e4
    assert sum_of_rows(values) == pytest.approx(values.double().sum().item(), rel=1e-14, abs=0)


def test_a_sum_beyond_float32_is_infinite_and_no_error() -> None:
    x = torch.zeros(2000, NARROW)
    x[:, 0] = 3e38
    with xent.backend("native"):
        assert xent.cross_entropy(x, torch.ones(2000, dtype=torch.int64), reduction="sum") == torch.inf
        assert xent.cross_entropy(x, torch.ones(2000, dtype=torch.int64)) == 3e38


def test_explain_reads_a_total() -> None:
    x, target = problem(rows=70)
    with xent.backend("native"):
        explained = xent.explain(xent.cross_entropy(x.requires_grad_(), target))
    text = str(explained)
    assert "mean" in text
    assert "60 rows" in text or "59 rows" in text
