"""Cross-entropy of logits, row by row, in one read.

    m' = max(m, max z)      s' = s · exp(m − m') + Σ exp(z − m')                        block by block
    D' = D + A · (m' − m) + Σ t (m' − z),   A' = A + Σ t                                t: the dense part of the target
    ln p_y = (z_y − m) − ln s                                                           never from a rounded m + ln s
    loss   = r · ((1 − ε) Σ_j w_j q_j (−ln p_j) + D + A ln s) + weight · ζ · (m + ln s)²

The dense part of a probability target is w_c ((1 − ε) q_c + ε / C); of class indices, one or k of them, w_c ε / C, and
their own classes are read beside the blocks. A row whose class index is outside [0, C) is NaN, and nothing outside the
logits is read for it.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import RowCall, kernel_flags, kernel_numbers, row_call
from xent.backends.triton.launches import Launch
from xent.backends.triton.tile_math import base, entropy_moved, entropy_of_block, log_sum, scaled
from xent.problem import Rows

NONE, HARD, SOFT, SPARSE = (tl.constexpr(kind) for kind in range(4))


@triton.jit
def dense_target(
    soft_row, class_weight, column, mask, classes, target_class, keep, share,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
):  # fmt: skip
    """Of a tile: q_c, smoothed, and w_c q_c. (rows, columns)."""
    q = tl.full(mask.shape, 0.0, ACC)
    if TARGET == SOFT:
        q += tl.load(soft_row + column.to(tl.int64)[None, :] * target_class, mask=mask, other=0.0).to(ACC)
        if SMOOTHED:
            q = keep * q
    if SMOOTHED:
        q += share
    weighted = q
    if HAS_CLASS_WEIGHT and (SMOOTHED or TARGET == SOFT):
        weighted = q * tl.load(class_weight + column, mask=column < classes, other=0.0).to(ACC)[None, :]
    return q, weighted


@triton.jit
def _forward_kernel(
    logits, target, probabilities, class_weight, row_weight,
    loss, weight, largest, logsum, mass, lse, entropy, prediction,
    classes, num_inner, blocks, entries,
    logits_outer, logits_inner, logits_class, target_outer, target_inner, target_class,
    ignore_index, keep: tl.float64, share: tl.float64, zeta: tl.float64, cap: tl.float64, scale: tl.float64,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, KEEP: tl.constexpr,
    HAS_CLASS_WEIGHT: tl.constexpr, HAS_ROW_WEIGHT: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, WITH_STATS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    DENSE: tl.constexpr = SMOOTHED or TARGET == SOFT
    keep, share, zeta = tl.full((), keep, ACC), tl.full((), share, ACC), tl.full((), zeta, ACC)
    cap, scale = tl.full((), cap, ACC), tl.full((), scale, ACC)
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    inner = (program % blocks) * ROWS + tl.arange(0, ROWS)
    inside = inner < num_inner
    row = outer * num_inner + inner
    x_row = (logits + outer * logits_outer + inner.to(tl.int64) * logits_inner)[:, None]
    soft_row = x_row
    if TARGET == SOFT:
        soft_row = (target + outer * target_outer + inner.to(tl.int64) * target_inner)[:, None]
    counted, bad = inside, inside & False
    if TARGET == HARD:
        y = tl.load(target + row, mask=inside, other=ignore_index)
        counted = inside & (y != ignore_index)
        bad = counted & ((y < 0) | (y >= classes))
    if TARGET == SPARSE:
        entry = tl.arange(0, ENTRIES)
        at = row[:, None] * entries + entry[None, :]
        named = inside[:, None] & (entry < entries)[None, :]
        index = tl.load(target + at, mask=named, other=ignore_index)
        named = named & (index != ignore_index)
        counted = tl.max(named.to(tl.int32), 1) > 0
        bad = tl.max((named & ((index < 0) | (index >= classes))).to(tl.int32), 1) > 0
    m = tl.full((ROWS,), -float("inf"), ACC)
    nothing = tl.full((ROWS,), 0.0, ACC)
    s, h, d, a = nothing, nothing, nothing, nothing
    best = tl.full((ROWS,), 0, tl.int32)
    any_counted = tl.max(counted.to(tl.int32), 0)
    for start in range(0, classes * any_counted, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        mask = counted[:, None] & (column < classes)[None, :]
        x = tl.load(x_row + column.to(tl.int64)[None, :] * logits_class, mask=mask, other=0.0).to(ACC)
        z, _ = scaled(x, scale, cap, HAS_SCALE, HAS_CAP)
        z = tl.where(mask, z, -float("inf"))
        largest_here = tl.max(z, 1)
        new_m = tl.maximum(m, largest_here)
        reference = base(new_m)
        shrink = tl.exp(m - reference)
        e = tl.exp(z - reference[:, None])
        if WITH_STATS:
            h = entropy_moved(h, s, m, new_m, shrink) + entropy_of_block(z, e, reference)
            here = start + tl.argmax(z, 1).to(tl.int32)
            best = tl.where(largest_here > m, here, best)
        if DENSE:
            q, t = dense_target(
                soft_row, class_weight, column, mask, classes, target_class, keep, share,
                ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT,
            )  # fmt: skip
            below = reference[:, None] - z
            below = tl.where((q == 0) & (below == float("inf")), 0.0, below)
            d += a * (reference - base(m)) + tl.sum(tl.where(mask, t * below, 0.0), 1)
            a += tl.sum(tl.where(mask, t, 0.0), 1)
        s = s * shrink + tl.sum(e, 1)
        m = new_m
    log_s = log_sum(m, s)
    row_lse = m + log_s
    ce = tl.full((ROWS,), 0.0, ACC)
    if DENSE:
        ce += d + a * log_s
    w = tl.full((ROWS,), 1.0, ACC)
    if TARGET == HARD:
        found = counted & ~bad
        safe = tl.where(found, y, 0)
        if HAS_CLASS_WEIGHT:
            w = tl.load(class_weight + safe, mask=found, other=0.0).to(ACC)
        if KEEP:
            x_y = tl.load(logits + outer * logits_outer + inner.to(tl.int64) * logits_inner + safe * logits_class,
                          mask=found, other=0.0).to(ACC)  # fmt: skip
            z_y, _ = scaled(x_y, scale, cap, HAS_SCALE, HAS_CAP)
            ce += keep * w * ((m - z_y) + log_s)
            a += keep * w
    if (TARGET == SPARSE) and KEEP:
        found = named & ~bad[:, None]
        safe = tl.where(found, index, 0)
        q_j = tl.load(probabilities + at, mask=found, other=0.0).to(ACC)
        x_j = tl.load(x_row + safe * logits_class, mask=found, other=0.0).to(ACC)
        z_j, _ = scaled(x_j, scale, cap, HAS_SCALE, HAS_CAP)
        surprisal = (m[:, None] - z_j) + log_s[:, None]
        surprisal = tl.where((q_j == 0) & (surprisal == float("inf")), 0.0, surprisal)
        t_j = keep * q_j
        if HAS_CLASS_WEIGHT:
            t_j = t_j * tl.load(class_weight + safe, mask=found, other=0.0).to(ACC)
        ce += tl.sum(tl.where(found, t_j * surprisal, 0.0), 1)
        a += tl.sum(tl.where(found, t_j, 0.0), 1)
    if HAS_ROW_WEIGHT:
        r = tl.load(row_weight + row, mask=inside, other=0.0).to(ACC)
        ce = ce * r
        w = w * r
    if HAS_Z:
        ce += w * zeta * row_lse * row_lse
    nan = float("nan")
    ce, w = tl.where(bad, nan, ce), tl.where(bad, nan, w)
    m, log_s, row_lse = tl.where(bad, nan, m), tl.where(bad, nan, log_s), tl.where(bad, nan, row_lse)
    tl.store(loss + row, tl.where(counted, ce, 0.0), mask=inside)
    tl.store(weight + row, tl.where(counted, w, 0.0), mask=inside)
    tl.store(largest + row, tl.where(counted, m, 0.0), mask=inside)
    tl.store(logsum + row, tl.where(counted, log_s, 0.0), mask=inside)
    tl.store(mass + row, tl.where(counted, a, 0.0), mask=inside)
    if WITH_STATS:
        tl.store(lse + row, tl.where(counted, row_lse, 0.0), mask=inside)
        tl.store(entropy + row, tl.where(counted, log_s + h / s, 0.0), mask=inside)
        tl.store(prediction + row, tl.where(counted, best, -1).to(tl.int64), mask=inside)


@dataclass(frozen=True, eq=False)
class Saved:
    """What the gradient reads of the values of the rows, each (N,); the entropy is empty without statistics."""

    largest: Tensor
    logsum: Tensor
    mass: Tensor
    entropy: Tensor


@dataclass(frozen=True, eq=False)
class Values:
    """Values of every row, each (N,); the last three are empty without statistics.

    Attributes:
        loss: in the dtype of the statistics, as all but the last.
        weight: what the row adds to the mean's denominator.
        largest: m, the largest z.
        logsum: ln Σ exp(z − m).
        mass: Σ_c of the weighted target.
        lse: m + ln s.
        entropy: of the prediction.
        prediction: most likely class, int64.
    """

    loss: Tensor
    weight: Tensor
    largest: Tensor
    logsum: Tensor
    mass: Tensor
    lse: Tensor
    entropy: Tensor
    prediction: Tensor

    @property
    def saved(self) -> Saved:
        """Those that the gradient reads."""
        return Saved(self.largest, self.logsum, self.mass, self.entropy)

    def between(self, start: int, stop: int) -> Values:
        """Those of some rows, as views."""
        return Values(*(value[start:stop] for value in vars(self).values()))


def empty_values(count: int, dtype: torch.dtype, device: torch.device, with_stats: bool) -> Values:
    """Room for the values of so many rows."""
    of_stats = count if with_stats else 0
    sizes = (count,) * 5 + (of_stats,) * 2
    floats = [torch.empty(size, dtype=dtype, device=device) for size in sizes]
    return Values(*floats, torch.empty(of_stats, dtype=torch.int64, device=device))


def forward(problem: Rows, with_stats: bool) -> Values:
    """Values of every row."""
    values = empty_values(problem.logits.shape[:-1].numel(), problem.stats_dtype, problem.logits.device, with_stats)
    write_values(problem, values, with_stats)
    return values


def write_values(problem: Rows, values: Values, with_stats: bool) -> None:
    """The same into tensors of the caller's, such as the part of a chunk."""
    call = row_call("cross_entropy", problem)
    call.run(lambda launch: _launch(call, values, with_stats, launch))


def _launch(call: RowCall, values: Values, with_stats: bool, launch: Launch) -> None:
    _forward_kernel[call.grid(launch)](
        *call.tensors,
        *vars(values).values(),
        *call.sizes(launch),
        call.problem.terms.ignore_index,
        **kernel_numbers(call.problem),
        **kernel_flags(call.problem),
        WITH_STATS=with_stats,
        **call.shape(launch),
    )
