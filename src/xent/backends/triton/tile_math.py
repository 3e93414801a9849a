"""The mathematics of a tile of logits, (rows, columns), in the dtype of the statistics; every kernel is made of these.

z = cap · tanh(scale · x / cap)        the state (m, s) of a row: largest z so far, Σ exp(z − m)

A state starts at m = −inf. Its exponentials are taken from `base(m)`, which is 0 there: −inf − (−inf) would be NaN, and
a block of nothing but −inf must add nothing.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

import triton.language as tl

import triton
from xent.backends.triton import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)
LAST = tl.constexpr(2**31 - 1)  # beyond every class


@triton.jit
def tanh(x):
    """Within 4 ulp: the continued fraction x / (1 + x² / (3 + x² / (5 + …))) cut after 15 below 0.625, where its error
    is 1e-17; beyond, 1 − 2 / (exp(2|x|) + 1), which does not cancel there.
    """
    q = x * x
    top = 2027025.0 + q * (270270.0 + q * (6930.0 + q * 36.0))
    bottom = 2027025.0 + q * (945945.0 + q * (51975.0 + q * (630.0 + q)))
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x * top / bottom, tl.where(x < 0, -far, far))


@triton.jit
def scaled(x, scale, cap, HAS_SCALE: tl.constexpr, HAS_CAP: tl.constexpr):
    """Z and, over the scale, dz/dx: 1 − tanh²."""
    z = x
    if HAS_SCALE:
        z = z * scale
    bend = tl.full((), 1.0, z.dtype)
    if HAS_CAP:
        bent = tanh(z / cap)
        z = cap * bent
        bend = 1.0 - bent * bent
    return z, bend


@triton.jit
def in_lanes(x, LANES: tl.constexpr):
    """A tile (rows, columns) as (rows, lanes, columns of a lane): neighbours in memory, held by one thread."""
    return tl.reshape(x, (x.shape[0], LANES, x.shape[1] // LANES))


@triton.jit
def base(m):
    """What exponentials are taken from: m, or 0 while there is nothing but −inf."""
    return tl.where(m == -float("inf"), 0.0, m)


@triton.jit
def log_sum(m, s):
    """Ln s; NaN for a row of nothing but −inf, whose softmax does not exist."""
    return tl.where(m == -float("inf"), float("nan"), tl.log(s))


@triton.jit
def first_nan(z, mask, column):
    """The class of the first NaN of each row of a tile, LAST where there is none: a maximum passes over it."""
    return tl.min(tl.where((z != z) & mask, tl.broadcast_to(column.to(tl.int32)[None, :], mask.shape), LAST), 1)


@triton.jit
def lse_and_best(m, s, lse, best, nan_at):
    """The statistics of rows with infinities and NaN: logsumexp is ±inf where nothing is NaN, and the first NaN is the
    largest logit, as for torch's argmax.
    """
    without = nan_at == LAST
    infinite = without & ((m == float("inf")) | ((m == -float("inf")) & (s == 0)))
    return tl.where(infinite, m, lse), tl.where(without, best, nan_at)


@triton.jit
def entropy_of_block(z, e, reference):
    """Σ exp(z − m) · (m − z) over the last dimension of a tile, where exp(z − m) is not 0."""
    return tl.sum(tl.where(e > 0, e * (tl.expand_dims(reference, -1) - z), 0.0), -1)


@triton.jit
def entropy_moved(entropy, s, m, new_m, shrink):
    """The same sum of the blocks before, taken from the new largest z."""
    return tl.where(shrink > 0, shrink * (entropy + s * (new_m - m)), 0.0)


@triton.jit
def narrowed(x, dtype: tl.constexpr):
    """X rounded to the nearest of `dtype`, to even in the middle, as a GPU does; the interpreter would cut bfloat16."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        bits = tl.where(x != x, bits, (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000)  # its cast sees a rest
        x = bits.to(tl.float32, bitcast=True)
    return x.to(dtype)
