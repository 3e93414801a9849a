"""The gradient of cross-entropy with respect to the logits, in one read and one write.

    p      = exp((z − m) − ln s)
    G_c    = (ĝ p_c − g r t_c − g_H p_c (ln p_c + H)) · dz/dx
    ĝ      = g r a + 2 g weight ζ (m + ln s) + g_lse            a = Σ_c t_c,   g, g_lse, g_H: upstream

t_c = w_c ((1 − ε) q_c + ε / C). The classes that a sparse target names are set after the blocks, each from its own
logit, which is read before them: the gradient may be written over the logits.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

from dataclasses import dataclass

import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import RowCall, launch_rows
from xent.backends.triton.cross_entropy import HARD, SOFT, SPARSE, Saved, body_of, dense_target, edge_of
from xent.backends.triton.launches import Launch
from xent.backends.triton.programs import Program
from xent.backends.triton.row_layout import empty_gradient
from xent.backends.triton.tile_math import narrowed, scaled
from xent.problem import Rows


@triton.jit
def upstream_at(pointer, row, stride, inside, ACC: tl.constexpr, GIVEN: tl.constexpr):
    """The upstream gradient of each row, 0 where there is none; a stride of 0 is one number for all rows."""
    g = tl.full(inside.shape, 0.0, ACC)
    if GIVEN:
        g += tl.load(pointer + row * stride, mask=inside, other=0.0).to(ACC)
    return g


@triton.jit
def gradient_of(
    z, bend, t, m, log_s, of_p, of_t, of_h, h, scale,
    HAS_ENTROPY: tl.constexpr, HAS_SCALE: tl.constexpr,
):  # fmt: skip
    """G of a tile; the row values are columns beside it, t is 0 or broadcasts with it."""
    log_p = (z - m) - log_s
    p = tl.exp(log_p)
    g = of_p * p - of_t * t
    if HAS_ENTROPY:
        g -= of_h * tl.where(p > 0, p * (log_p + h), 0.0)
    g = g * bend
    if HAS_SCALE:
        g = g * scale
    return g


@triton.jit
def gradient_of_tile(
    x, soft_row, class_weight, column, mask, t_y, at_y, m, log_s, of_p, of_t, of_h, h,
    classes, target_class, keep, share, scale, cap,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_ENTROPY: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """G of a tile of logits, rounded to the gradient's dtype; 0 outside the mask."""
    z, bend = scaled(x.to(ACC), scale, cap, HAS_SCALE, HAS_CAP)
    _, t = dense_target(
        soft_row, class_weight, column, mask, classes, target_class, keep, share,
        ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT,
    )  # fmt: skip
    if TARGET == HARD:
        t += tl.where(column[None, :] == at_y, t_y, 0.0)
    made = gradient_of(z, bend, t, m, log_s, of_p, of_t, of_h, h, scale, HAS_ENTROPY, HAS_SCALE)
    return narrowed(tl.where(mask, made, 0.0), OUT)


@triton.jit
def _gradient_kernel(
    logits, target, probabilities, class_weight, row_weight,
    largest, logsum, mass, entropy, g_loss, g_lse, g_entropy, gradient,
    classes, num_inner, blocks, entries,
    logits_outer, logits_inner, logits_class, target_outer, target_inner, target_class,
    gradient_outer, gradient_inner, gradient_class, g_loss_stride, g_lse_stride, g_entropy_stride,
    ignore_index, keep: tl.float64, share: tl.float64, zeta: tl.float64, cap: tl.float64, scale: tl.float64,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, KEEP: tl.constexpr,
    HAS_CLASS_WEIGHT: tl.constexpr, HAS_ROW_WEIGHT: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr,
    HAS_LOSS: tl.constexpr, HAS_LSE: tl.constexpr, HAS_ENTROPY: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr,
    VECTOR: tl.constexpr, PEELED: tl.constexpr,
):  # fmt: skip
    keep, share, zeta = tl.full((), keep, ACC), tl.full((), share, ACC), tl.full((), zeta, ACC)
    cap, scale = tl.full((), cap, ACC), tl.full((), scale, ACC)
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    first = (program % blocks) * ROWS
    inner = first + tl.arange(0, ROWS)
    inside = inner < num_inner
    row = outer * num_inner + inner
    wide = inner.to(tl.int64)
    x_row = (logits + outer * logits_outer + wide * logits_inner)[:, None]
    g_row = (gradient + outer * gradient_outer + wide * gradient_inner)[:, None]
    soft_row = x_row
    if TARGET == SOFT:
        soft_row = (target + outer * target_outer + wide * target_inner)[:, None]
    counted = inside
    w = tl.full((ROWS,), 1.0, ACC)
    t_y, at_y = w[:, None], tl.full((ROWS, 1), -1, tl.int32)
    if TARGET == HARD:
        y = tl.load(target + row, mask=inside, other=ignore_index)
        counted = inside & (y != ignore_index)
        valid = counted & (y >= 0) & (y < classes)
        if HAS_CLASS_WEIGHT:
            w = tl.load(class_weight + tl.where(valid, y, 0), mask=valid, other=0.0).to(ACC)
        t_y, at_y = (keep * w)[:, None], tl.where(valid, y, -1).to(tl.int32)[:, None]
    if TARGET == SPARSE:
        entry = tl.arange(0, ENTRIES)
        at = row[:, None] * entries + entry[None, :]
        named = inside[:, None] & (entry < entries)[None, :]
        index = tl.load(target + at, mask=named, other=ignore_index)
        named = named & (index != ignore_index)
        counted = tl.max(named.to(tl.int32), 1) > 0
        found = named & (index >= 0) & (index < classes)
        safe = tl.where(found, index, 0)
        x_j = tl.load(x_row + safe * logits_class, mask=found, other=0.0).to(ACC)
        tl.debug_barrier()  # before another warp writes its gradient over these logits
    m = tl.load(largest + row, mask=inside, other=0.0)
    log_s = tl.load(logsum + row, mask=inside, other=0.0)
    g = upstream_at(g_loss, row, g_loss_stride, inside, ACC, HAS_LOSS)
    of_h = upstream_at(g_entropy, row, g_entropy_stride, inside, ACC, HAS_ENTROPY)
    h = upstream_at(entropy, row, 1, inside, ACC, HAS_ENTROPY)
    if HAS_ROW_WEIGHT:
        g = g * tl.load(row_weight + row, mask=inside, other=0.0).to(ACC)
    of_p = upstream_at(g_lse, row, g_lse_stride, inside, ACC, HAS_LSE)
    if HAS_LOSS:
        of_p += g * tl.load(mass + row, mask=inside, other=0.0)
    if HAS_Z:
        of_p += 2.0 * g * w * zeta * (m + log_s)
    m, log_s, of_p, of_t, of_h, h = m[:, None], log_s[:, None], of_p[:, None], g[:, None], of_h[:, None], h[:, None]
    OUT: tl.constexpr = gradient.dtype.element_ty
    begin = outer * logits_outer + first.to(tl.int64) * logits_inner
    head, limit, body = body_of(begin, classes, VECTOR, PEELED)
    x_tile, g_tile, whole = x_row, g_row, 0
    if PEELED:  # which asks for the same strides of both
        x_tile, g_tile = logits + body, gradient + body
    if ROWS == 1:
        whole = limit // COLUMNS
    for block in range(0, whole):
        place = block * COLUMNS + tl.arange(0, COLUMNS)
        offset = place.to(tl.int64)[None, :]
        x = tl.load(x_tile + offset * logits_class)
        made = gradient_of_tile(
            x, soft_row, class_weight, head + place, tl.broadcast_to(counted[:, None], (ROWS, COLUMNS)), t_y, at_y,
            m, log_s, of_p, of_t, of_h, h, classes, target_class, keep, share, scale, cap,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, HAS_ENTROPY, OUT,
        )  # fmt: skip
        tl.store(g_tile + offset * gradient_class, made)
    for start in range(whole * COLUMNS, limit, COLUMNS):
        place = start + tl.arange(0, COLUMNS)
        within = inside[:, None] & (place < limit)[None, :]
        mask = within & counted[:, None]
        offset = place.to(tl.int64)[None, :]
        x = tl.load(x_tile + offset * logits_class, mask=mask, other=0.0)
        made = gradient_of_tile(
            x, soft_row, class_weight, head + place, mask, t_y, at_y,
            m, log_s, of_p, of_t, of_h, h, classes, target_class, keep, share, scale, cap,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, HAS_ENTROPY, OUT,
        )  # fmt: skip
        tl.store(g_tile + offset * gradient_class, made, mask=within)
    if PEELED:
        column, within = edge_of(head, limit, classes, 2 * VECTOR, VECTOR)
        mask = counted[:, None] & within[None, :]
        offset = column.to(tl.int64)[None, :]
        x = tl.load(x_row + offset * logits_class, mask=mask, other=0.0)
        made = gradient_of_tile(
            x, soft_row, class_weight, column, mask, t_y, at_y,
            m, log_s, of_p, of_t, of_h, h, classes, target_class, keep, share, scale, cap,
            ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT, HAS_CAP, HAS_SCALE, HAS_ENTROPY, OUT,
        )  # fmt: skip
        tl.store(g_row + offset * gradient_class, made, mask=inside[:, None] & within[None, :])
    if TARGET == SPARSE:
        # The mass of an entry's class is that of all entries of that class, added up in their order.
        total = tl.full((ROWS, ENTRIES), 0.0, ACC)
        for other in range(0, entries):
            there = tl.load(target + row * entries + other, mask=inside, other=ignore_index)
            q = tl.load(probabilities + row * entries + other, mask=inside & (there != ignore_index), other=0.0).to(ACC)
            total += tl.where(index == there[:, None], keep * q[:, None], 0.0)
        if SMOOTHED:
            total += share
        if HAS_CLASS_WEIGHT:
            total = total * tl.load(class_weight + safe, mask=found, other=0.0).to(ACC)
        z_j, bend_j = scaled(x_j, scale, cap, HAS_SCALE, HAS_CAP)
        made_j = gradient_of(z_j, bend_j, total, m, log_s, of_p, of_t, of_h, h, scale, HAS_ENTROPY, HAS_SCALE)
        tl.debug_barrier()  # after the blocks' own writes to the same places, by other threads
        tl.store(g_row + safe * gradient_class, narrowed(made_j, gradient.dtype.element_ty), mask=found)


@dataclass(frozen=True, eq=False)
class Upstream:
    """Gradients of the differentiable values of the rows, each (N,), of any stride, or None for 0."""

    loss: Tensor | None
    lse: Tensor | None = None
    entropy: Tensor | None = None


def gradient(problem: Rows, saved: Saved, upstream: Upstream) -> Tensor:
    """dL/dlogits (*rows, C)."""
    buffer = empty_gradient(problem.logits)
    write_gradient(problem, saved, upstream, buffer)
    return buffer


def write_gradient(problem: Rows, saved: Saved, upstream: Upstream, buffer: Tensor) -> None:
    """The same into a buffer of the caller's, which may be the logits."""
    in_place = buffer.data_ptr() == problem.logits.data_ptr()
    given = upstream.loss, upstream.lse, upstream.entropy
    strides = tuple(0 if g is None else g.stride(0) for g in given)
    others = saved.largest, saved.logsum, saved.mass, saved.entropy, *given, buffer

    def started(call: RowCall, launch: Launch) -> Program | None:
        numbers = *call.sizes(launch), *call.layout.strides[-1], *strides, problem.terms.ignore_index
        named = {"HAS_LOSS": given[0] is not None, "HAS_LSE": given[1] is not None, "HAS_ENTROPY": given[2] is not None}
        named |= call.options() | call.vectors(launch)
        return call.start(_gradient_kernel, launch, (*call.tensors, *others), numbers, named)

    launch_rows(("cross_entropy_gradient", strides), problem, others, started, written=buffer, repeatable=not in_place)
