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
from xent.backends.triton.calls import RowCall, launch_rows
from xent.backends.triton.launches import Launch
from xent.backends.triton.programs import Program
from xent.backends.triton.tile_math import (
    LAST,
    base,
    entropy_moved,
    entropy_of_block,
    first_nan,
    in_lanes,
    log_sum,
    lse_and_best,
    scaled,
)
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
def body_of(begin, classes, VECTOR: tl.constexpr, PEELED: tl.constexpr):
    """Where the tiles of a program's only row lie: the class that they begin with, how many classes, their distance.

    PEELED: the row begins between two vectors of memory. Its tiles hold whole vectors only, which is plain to the
    compiler from the arithmetic here; `edge_of` has the few classes before and after.
    """
    head, limit, at = 0, classes, begin
    if PEELED:
        at = (begin + (VECTOR - 1)) // VECTOR * VECTOR
        head = (at - begin).to(tl.int32)
        limit = (classes - head) // VECTOR * VECTOR
    return head, limit, at


@triton.jit
def edge_of(head, limit, classes, SIZE: tl.constexpr, VECTOR: tl.constexpr):
    """The classes before the tiles and after them, and which of these there are: fewer than two vectors."""
    place = tl.arange(0, SIZE)
    column = tl.where(place < VECTOR, place, head + limit + (place - VECTOR))
    return column, tl.where(place < VECTOR, place < head, column < classes)


@triton.jit
def folded(
    m, s, h, d, a, best, x, column, mask, soft_row, class_weight, classes, target_class, keep, share, cap, scale,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, WITH_STATS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The state of every lane, (rows, lanes), after a tile of logits; a lane folds the same few places of each."""
    z, _ = scaled(x.to(ACC), scale, cap, HAS_SCALE, HAS_CAP)
    z = in_lanes(tl.where(mask, z, -float("inf")), LANES)
    largest_here = tl.max(z, 2)
    new_m = tl.maximum(m, largest_here)
    reference = base(new_m)
    shrink = tl.exp(m - reference)
    e = tl.exp(z - reference[:, :, None])
    if WITH_STATS:
        h = entropy_moved(h, s, m, new_m, shrink) + entropy_of_block(z, e, reference)
        named = in_lanes(tl.broadcast_to(column[None, :], mask.shape), LANES)
        here = tl.min(tl.where(z == largest_here[:, :, None], named, LAST), 2)
        best = tl.where((largest_here > m) | ((largest_here == m) & (here < best)), here, best)
    if SMOOTHED or TARGET == SOFT:
        q, t = dense_target(
            soft_row, class_weight, column, mask, classes, target_class, keep, share,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT,
        )  # fmt: skip
        q, t, there = in_lanes(q, LANES), in_lanes(t, LANES), in_lanes(mask, LANES)
        below = reference[:, :, None] - z
        below = tl.where((q == 0) & (below == float("inf")), 0.0, below)
        d += a * (reference - base(m)) + tl.sum(tl.where(there, t * below, 0.0), 2)
        a += tl.sum(tl.where(there, t, 0.0), 2)
    s = s * shrink + tl.sum(e, 2)
    return new_m, s, h, d, a, best


@triton.jit
def of_rows(m, s, h, d, a, best, DENSE: tl.constexpr, WITH_STATS: tl.constexpr):
    """The state of the rows from that of their lanes."""
    row_m = tl.max(m, 1)
    reference = base(row_m)[:, None]
    shrink = tl.exp(m - reference)
    if WITH_STATS:
        h = entropy_moved(h, s, m, row_m[:, None], shrink)
        best = tl.where(m == row_m[:, None], best, LAST)
    if DENSE:
        d += a * (reference - base(m))
    best = tl.min(best, 1)
    best = tl.where(best == LAST, 0, best)
    return row_m, tl.sum(s * shrink, 1), tl.sum(h, 1), tl.sum(d, 1), tl.sum(a, 1), best


@triton.jit
def first_nan_of_rows(x_row, mask, classes, logits_class, cap, scale, ACC: tl.constexpr, HAS_CAP: tl.constexpr,
                      HAS_SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """The class of the first NaN of every row of the mask, LAST where there is none: read again, where a sum is NaN."""
    first = tl.full((ROWS,), LAST, tl.int32)
    for start in range(0, classes * tl.max(mask.to(tl.int32), 0), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        here = mask[:, None] & (column < classes)[None, :]
        x = tl.load(x_row + column.to(tl.int64)[None, :] * logits_class, mask=here, other=0.0).to(ACC)
        z, _ = scaled(x, scale, cap, HAS_SCALE, HAS_CAP)
        first = tl.minimum(first, first_nan(z, here, column))
    return first


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
    LANES: tl.constexpr, VECTOR: tl.constexpr, PEELED: tl.constexpr,
):  # fmt: skip
    DENSE: tl.constexpr = SMOOTHED or TARGET == SOFT
    keep, share, zeta = tl.full((), keep, ACC), tl.full((), share, ACC), tl.full((), zeta, ACC)
    cap, scale = tl.full((), cap, ACC), tl.full((), scale, ACC)
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    first = (program % blocks) * ROWS
    inner = first + tl.arange(0, ROWS)
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
    nothing = tl.full((ROWS, LANES), 0.0, ACC)
    m, s, h, d, a = nothing - float("inf"), nothing, nothing, nothing, nothing
    best = tl.full((ROWS, LANES), 0, tl.int32)
    any_counted = tl.max(counted.to(tl.int32), 0)
    begin = outer * logits_outer + first.to(tl.int64) * logits_inner
    head, limit, body = body_of(begin, classes, VECTOR, PEELED)
    tile_row, whole = x_row, 0
    if PEELED:
        tile_row = logits + body
    if ROWS == 1:
        whole = limit // COLUMNS * any_counted
    for block in range(0, whole):
        place = block * COLUMNS + tl.arange(0, COLUMNS)
        x = tl.load(tile_row + place.to(tl.int64)[None, :] * logits_class)
        m, s, h, d, a, best = folded(
            m, s, h, d, a, best, x, head + place, tl.full((ROWS, COLUMNS), True, tl.int1),
            soft_row, class_weight, classes, target_class, keep, share, cap, scale,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, WITH_STATS, LANES,
        )  # fmt: skip
    for start in range(whole * COLUMNS, limit * any_counted, COLUMNS):
        place = start + tl.arange(0, COLUMNS)
        mask = counted[:, None] & (place < limit)[None, :]
        x = tl.load(tile_row + place.to(tl.int64)[None, :] * logits_class, mask=mask, other=0.0)
        m, s, h, d, a, best = folded(
            m, s, h, d, a, best, x, head + place, mask,
            soft_row, class_weight, classes, target_class, keep, share, cap, scale,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, WITH_STATS, LANES,
        )  # fmt: skip
    if PEELED:
        column, within = edge_of(head, limit, classes, LANES, VECTOR)
        mask = counted[:, None] & within[None, :]
        x = tl.load(x_row + column.to(tl.int64)[None, :] * logits_class, mask=mask, other=0.0)
        m, s, h, d, a, best = folded(
            m, s, h, d, a, best, x, column, mask,
            soft_row, class_weight, classes, target_class, keep, share, cap, scale,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, WITH_STATS, LANES,
        )  # fmt: skip
    m, s, h, d, a, best = of_rows(m, s, h, d, a, best, DENSE, WITH_STATS)
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
        nan_at = first_nan_of_rows(
            x_row, counted & (s != s), classes, logits_class, cap, scale, ACC, HAS_CAP, HAS_SCALE, ROWS, COLUMNS
        )  # fmt: skip
        row_lse, best = lse_and_best(m, s, row_lse, best, nan_at)
        tl.store(lse + row, tl.where(counted, row_lse, 0.0), mask=inside)
        tl.store(entropy + row, tl.where(counted, log_s + h / s, 0.0), mask=inside)
        tl.store(prediction + row, tl.where(counted, best, -1).to(tl.int64), mask=inside)


@dataclass(frozen=True, eq=False)
class Saved:
    """What the gradient reads of the values of the rows, each (N,); no mass where no loss has an upstream gradient, and
    no entropy without statistics.
    """

    largest: Tensor
    logsum: Tensor
    mass: Tensor | None
    entropy: Tensor | None


@dataclass(frozen=True, eq=False)
class Values:
    """Values of every row, each (N,).

    Attributes:
        loss: in the dtype of the statistics, as all but the last.
        weight: what the row adds to the mean's denominator.
        largest: m, the largest z.
        logsum: ln Σ exp(z − m).
        mass: Σ_c of the weighted target.
        lse: m + ln s; None without statistics, as what follows.
        entropy: of the prediction.
        prediction: most likely class, int64.
    """

    loss: Tensor
    weight: Tensor
    largest: Tensor
    logsum: Tensor
    mass: Tensor
    lse: Tensor | None
    entropy: Tensor | None
    prediction: Tensor | None

    @property
    def saved(self) -> Saved:
        """Those that the gradient reads."""
        return Saved(self.largest, self.logsum, self.mass, self.entropy)

    def at(self, rows: slice) -> Values:
        """Those of some rows, as views."""
        return Values(*(None if value is None else value[rows] for value in vars(self).values()))

    def as_tensors(self) -> tuple[Tensor, ...]:
        """All eight, for an operation that can't return None: empty ones in its place."""
        dtypes = (*(self.loss.dtype,) * 7, torch.int64)
        return tuple(
            self.loss.new_empty(0, dtype=dtype) if value is None else value
            for value, dtype in zip(vars(self).values(), dtypes, strict=True)
        )


def empty_values(count: int, dtype: torch.dtype, device: torch.device, with_stats: bool) -> Values:
    """Room for the values of so many rows."""
    floats = [torch.empty(count, dtype=dtype, device=device) for _ in range(7 if with_stats else 5)]
    if not with_stats:
        return Values(*floats, None, None, None)
    return Values(*floats, torch.empty(count, dtype=torch.int64, device=device))


def forward(problem: Rows, with_stats: bool) -> Values:
    """Values of every row."""
    values = empty_values(problem.logits.shape[:-1].numel(), problem.stats_dtype, problem.logits.device, with_stats)
    write_values(problem, values, with_stats)
    return values


def write_values(problem: Rows, values: Values, with_stats: bool) -> None:
    """The same into tensors of the caller's, such as the part of a chunk."""
    others = tuple(vars(values).values())

    def started(call: RowCall, launch: Launch) -> Program | None:
        numbers = *call.sizes(launch), problem.terms.ignore_index
        named = {"WITH_STATS": with_stats} | call.options() | call.vectors(launch) | call.lanes(launch)
        return call.start(_forward_kernel, launch, (*call.tensors, *others), numbers, named)

    launch_rows(("cross_entropy", with_stats), problem, others, started)
