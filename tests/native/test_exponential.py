"""The vector functions against float64 (float32) and mpmath (float64), on every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from xent.backends.native import _kernels

EXP_ULP = 1.5  # the bound that native/math/exponential.h states
LOG1P_ULP, LN_ULP = 2, 2.5  # those of logarithm.h
ROOT_HALF, ONE, INFINITE = 0x3F3504F4, 0x3F800000, 0x7F800000  # the bits of float32
ALL = 2**32
PIECE = 2**24


def exp_error_in_ulp(bits: np.ndarray, function: str = "exp") -> float:
    """Largest error over the float32 of these bits; asserts the special values."""
    x = bits.view(np.float32)
    got = np.empty_like(x)
    _kernels.apply(function, x, got)
    with np.errstate(all="ignore"):
        truth = np.exp(x.astype(np.float64))
        rounded = truth.astype(np.float32)
        assert np.array_equal(np.isnan(got), np.isnan(x))
        assert np.array_equal(np.isinf(got[~np.isnan(x)]), np.isinf(rounded[~np.isnan(x)]) & ~np.isnan(x)[~np.isnan(x)])
        finite = np.isfinite(rounded) & (rounded > 0)
        steps = np.spacing(rounded[finite])
        error = np.abs(got[finite].astype(np.float64) - truth[finite]) / steps
        normal = rounded[finite] >= np.finfo(np.float32).tiny
        assert float(error[~normal].max(initial=0)) <= 1.5  # a subnormal is rounded twice
        tiny = np.isfinite(x) & (rounded == 0)
        assert float(got[tiny].max(initial=0)) <= 2.0**-149
    return float(error[normal].max(initial=0))


def test_exp_near_its_limits_and_in_the_used_range(isa: str) -> None:
    pieces = [(0xC2D00000, 2**18), (0xC2AE0000, 2**18), (0x42B00000, 2**18), (0xBF000000, 2**18), (0, 2**16)]
    for start, count in pieces:
        assert exp_error_in_ulp(np.arange(start, start + count, dtype=np.uint32)) <= EXP_ULP


def test_exp_of_a_difference(isa: str) -> None:
    """The form inside a softmax, for every 499th number up to 64, NaN and −∞ included."""
    bits = np.arange(0, ALL, 499, dtype=np.uint64).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        taken = ~(bits.view(np.float32) > 64)
    assert exp_error_in_ulp(bits[taken], "exp_of_difference") <= EXP_ULP


def log1p_error_in_ulp(bits: np.ndarray) -> float:
    x = bits.view(np.float32)
    got = np.empty_like(x)
    _kernels.apply("log1p", x, got)
    truth = np.log1p(x.astype(np.float64))
    return float((np.abs(got - truth) / np.spacing(truth.astype(np.float32))).max())


def ln_error_in_ulp(bits: np.ndarray) -> float:
    """Of float64, at numbers that float32 holds; the truth is that of long double."""
    x = bits.view(np.float32).astype(np.float64)
    got = np.empty_like(x)
    _kernels.apply("ln", x, got)
    truth = np.log(x.astype(np.longdouble))
    return float((np.abs(got - truth) / np.spacing(np.abs(truth.astype(np.float64)))).max())


def test_logarithms_on_every_499th_float32(isa: str) -> None:
    assert log1p_error_in_ulp(np.arange(0, ONE + 1, 499, dtype=np.uint32)) <= LOG1P_ULP
    assert ln_error_in_ulp(np.arange(ROOT_HALF, INFINITE, 499, dtype=np.uint32)) <= LN_ULP


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "first", "last", "bound"),
    [(log1p_error_in_ulp, 0, ONE, LOG1P_ULP), (ln_error_in_ulp, ROOT_HALF, INFINITE - 1, LN_ULP)],
    ids=["log1p", "ln"],
)
def test_logarithms_of_every_float32(
    error: Callable[[np.ndarray], float], first: int, last: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the widest set alone: a minute or two each."""
    monkeypatch.delenv("XENT_ISA", raising=False)
    for start in range(first, last + 1, PIECE):
        assert error(np.arange(start, min(start + PIECE, last + 1), dtype=np.uint32)) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("forced", _kernels.supported_isas())
def test_exp_of_every_float32(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENT_ISA", forced)
    worst = 0.0
    for start in range(0, ALL, PIECE):
        bits = np.arange(start, start + PIECE, dtype=np.uint64).astype(np.uint32)
        magnitude = bits[0] & 0x7FFFFFFF
        if 0x43800000 <= magnitude < 0x7F000000:  # beyond ±256 exp is 0 or inf: every 64th number
            bits = bits[::64].copy()
        worst = max(worst, exp_error_in_ulp(bits))
    assert worst <= EXP_ULP


def test_exp_in_float64(isa: str) -> None:
    x = np.concatenate([np.linspace(-745, 709.7, 3001), np.linspace(-1, 1, 501), [0.0, -0.0]])
    got = np.empty_like(x)
    _kernels.apply("exp", x, got)
    with mpmath.workdps(40):
        for value, result in zip(x, got, strict=True):
            truth = mpmath.exp(mpmath.mpf(float(value)))
            assert abs(mpmath.mpf(float(result)) - truth) <= 1.5 * np.spacing(float(truth))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_and_log1p(isa: str, dtype: type) -> None:
    wide = np.concatenate([np.linspace(-30, 30, 2001), np.geomspace(1e-30, 1, 500), [0.0, np.inf, -np.inf]])
    quotient = 4  # of two values with 1.5 ulp each
    for name, function, x, bound in (
        ("tanh", mpmath.tanh, wide, quotient),
        ("log1p", mpmath.log1p, np.linspace(0, 1, 2001), LOG1P_ULP),
    ):
        numbers = x.astype(dtype)
        got = np.empty_like(numbers)
        _kernels.apply(name, numbers, got)
        with mpmath.workdps(40):
            truth = np.array([float(function(mpmath.mpf(float(value)))) for value in numbers])
        steps = np.abs(got.astype(np.float64) - truth) / np.spacing(np.abs(truth).astype(dtype)).astype(np.float64)
        assert float(steps.max()) <= bound


def test_ln_of_sums(isa: str) -> None:
    """From √½ on, near 1 as well as far from it; the states of the loss hold ln in float64."""
    x = np.concatenate(
        [np.linspace(0.7072, 1.5, 3001), np.geomspace(1, 3e38, 3001), 1 + np.geomspace(1e-16, 1e-3, 500)]
    )
    got = np.empty_like(x)
    _kernels.apply("ln", x, got)
    with mpmath.workdps(40):
        for value, result in zip(x, got, strict=True):
            truth = mpmath.log(mpmath.mpf(float(value)))
            assert abs(mpmath.mpf(float(result)) - truth) <= 2.5 * np.spacing(abs(float(truth)))


def test_torch_arrays_are_taken_too(isa: str) -> None:
    x = torch.linspace(-5, 0, 33)
    y = torch.empty_like(x)
    _kernels.apply("exp", x, y)
    torch.testing.assert_close(y, x.exp())
