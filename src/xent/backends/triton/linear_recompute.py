"""Linear + cross-entropy without a buffer of logits: every program makes the tiles that it needs, and forgets them.

    forward     rows in blocks; all classes pass by a block, (m, s) and the weighted target are folded as they come
    d hidden    (rows, features) in blocks; for each all classes pass by again: x tile, G tile, G · W
    d weight    (classes, features) in blocks; for each all rows pass by: x tile, G tile, Gᵀ · hidden

Each block of a gradient is summed by one program in one order: no atomics, and nothing beside inputs, gradients and a
few numbers for each row. The price is ⌈D/256⌉ + 1 products for each gradient in the place of one.

With a gradient filter τ a tile adds nothing to a gradient if |G_nc| ≤ τ |g_n| everywhere in it, g_n the upstream
gradient of row n. What is left out is at most

    |Δ d hidden_nd| ≤ τ |g_n| Σ_c |W_cd|            |Δ d weight_cd| ≤ τ Σ_n |g_n| |hidden_nd|
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton import INTERPRETED
from xent.backends.triton.calls import kernel_flags, kernel_numbers, on_device
from xent.backends.triton.cross_entropy import HARD, SOFT, SPARSE, Saved, Values, dense_target
from xent.backends.triton.cross_entropy_gradient import Upstream, gradient_of, upstream_at
from xent.backends.triton.tile_math import (
    LAST,
    base,
    entropy_moved,
    entropy_of_block,
    first_nan,
    log_sum,
    lse_and_best,
    narrowed,
    scaled,
)
from xent.problem import Rows

_INTERPRETED = tl.constexpr(INTERPRETED)
_ROWS, _CLASSES, _INNER, _FEATURES = 64, 64, 32, 256
_SMALL = 16  # the least that tl.dot multiplies


@triton.jit
def product(a, b, total, ACC: tl.constexpr):
    """Total + a · b, accumulated in the dtype of the statistics; the interpreter multiplies no bfloat16."""
    if _INTERPRETED:
        a, b = a.to(ACC), b.to(ACC)
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=ACC)


@triton.jit
def logits_tile(
    hidden, linear, bias, row, column, count, classes, features, hidden_stride, linear_stride,
    ACC: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Logits (rows, classes) of a tile, in the dtype of the statistics: they are rounded to no other."""
    x = tl.full((ROWS, CLASSES), 0.0, ACC)
    for start in range(0, features, INNER):
        d = start + tl.arange(0, INNER)
        here = (d < features)[None, :]
        a = tl.load(hidden + row[:, None] * hidden_stride + d[None, :], mask=(row < count)[:, None] & here, other=0.0)
        b = tl.load(linear + column[:, None] * linear_stride + d[None, :], mask=(column < classes)[:, None] & here,
                    other=0.0)  # fmt: skip
        x = product(a, tl.trans(b), x, ACC)
    if HAS_BIAS:
        x += tl.load(bias + column, mask=column < classes, other=0.0).to(ACC)[None, :]
    return x


@triton.jit
def target_tile(
    target, probabilities, class_weight, row, column, mask, classes, entries, target_row, target_class,
    ignore_index, keep, share,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
):  # fmt: skip
    """q_c, smoothed, and w_c q_c of a tile, whatever the kind of target."""
    soft_row = row[:, None]
    if TARGET == SOFT:
        soft_row = (target + row * target_row)[:, None]
    q, weighted = dense_target(
        soft_row, class_weight, column, mask, classes, target_class, keep, share,
        ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT,
    )  # fmt: skip
    inside = tl.max(mask.to(tl.int32), 1) > 0
    named = tl.full(mask.shape, 0.0, ACC)
    if TARGET == HARD:
        y = tl.load(target + row, mask=inside, other=ignore_index)
        named += tl.where(column[None, :] == y[:, None], keep, 0.0)
    if TARGET == SPARSE:
        for entry in range(0, entries):
            index = tl.load(target + row * entries + entry, mask=inside, other=ignore_index)
            q_j = tl.load(probabilities + row * entries + entry, mask=inside & (index != ignore_index), other=0.0)
            at = (column[None, :] == index[:, None]) & (index != ignore_index)[:, None]
            named += tl.where(at, keep * q_j.to(ACC)[:, None], 0.0)
    if TARGET != SOFT:
        q += named
        if HAS_CLASS_WEIGHT:
            named = named * tl.load(class_weight + column, mask=column < classes, other=0.0).to(ACC)[None, :]
        weighted += named
    return q, weighted


@triton.jit
def counted_rows(
    target, row, inside, classes, entries, ignore_index, TARGET: tl.constexpr, ENTRIES: tl.constexpr
):  # fmt: skip
    """Which rows count, and which of them name a class that there is not."""
    counted, bad = inside, inside & (row < 0)
    if TARGET == HARD:
        y = tl.load(target + row, mask=inside, other=ignore_index)
        counted = inside & (y != ignore_index)
        bad = counted & ((y < 0) | (y >= classes))
    if TARGET == SPARSE:
        entry = tl.arange(0, ENTRIES)
        named = inside[:, None] & (entry < entries)[None, :]
        index = tl.load(target + row[:, None] * entries + entry[None, :], mask=named, other=ignore_index)
        named = named & (index != ignore_index)
        counted = tl.max(named.to(tl.int32), 1) > 0
        bad = tl.max((named & ((index < 0) | (index >= classes))).to(tl.int32), 1) > 0
    return counted, bad


@triton.jit
def _forward_kernel(
    hidden, linear, bias, target, probabilities, class_weight,
    loss, weight, largest, logsum, mass, lse, entropy, prediction,
    count, classes, features, entries, hidden_stride, linear_stride, target_row, target_class,
    ignore_index, keep: tl.float64, share: tl.float64, zeta: tl.float64, cap: tl.float64, scale: tl.float64,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    WITH_STATS: tl.constexpr, ENTRIES: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    keep, share, zeta = tl.full((), keep, ACC), tl.full((), share, ACC), tl.full((), zeta, ACC)
    cap, scale = tl.full((), cap, ACC), tl.full((), scale, ACC)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    counted, bad = counted_rows(target, row, inside, classes, entries, ignore_index, TARGET, ENTRIES)
    m = tl.full((ROWS,), -float("inf"), ACC)
    nothing = tl.full((ROWS,), 0.0, ACC)
    s, h, d, a = nothing, nothing, nothing, nothing
    best, nan_at = tl.full((ROWS,), 0, tl.int32), tl.full((ROWS,), LAST, tl.int32)
    for start in range(0, classes, CLASSES):
        column = (start + tl.arange(0, CLASSES)).to(tl.int64)
        mask = counted[:, None] & (column < classes)[None, :]
        x = logits_tile(hidden, linear, bias, row, column, count, classes, features, hidden_stride, linear_stride,
                        ACC, HAS_BIAS, ROWS, CLASSES, INNER)  # fmt: skip
        z, _ = scaled(x, scale, cap, HAS_SCALE, HAS_CAP)
        z = tl.where(mask, z, -float("inf"))
        largest_here = tl.max(z, 1)
        new_m = tl.maximum(m, largest_here)
        reference = base(new_m)
        shrink = tl.exp(m - reference)
        e = tl.exp(z - reference[:, None])
        if WITH_STATS:
            h = entropy_moved(h, s, m, new_m, shrink) + entropy_of_block(z, e, reference)
            best = tl.where(largest_here > m, start + tl.argmax(z, 1).to(tl.int32), best)
            nan_at = tl.minimum(nan_at, first_nan(z, mask, column))
        q, t = target_tile(target, probabilities, class_weight, row, column, mask, classes, entries, target_row,
                           target_class, ignore_index, keep, share,
                           ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT)  # fmt: skip
        below = reference[:, None] - z
        below = tl.where((q == 0) & (below == float("inf")), 0.0, below)
        d += a * (reference - base(m)) + tl.sum(tl.where(mask, t * below, 0.0), 1)
        a += tl.sum(tl.where(mask, t, 0.0), 1)
        s = s * shrink + tl.sum(e, 1)
        m = new_m
    log_s = log_sum(m, s)
    row_lse = m + log_s
    ce = d + a * log_s
    w = tl.full((ROWS,), 1.0, ACC)
    if (TARGET == HARD) and HAS_CLASS_WEIGHT:
        found = counted & ~bad
        y = tl.load(target + row, mask=found, other=0)
        w = tl.load(class_weight + y, mask=found, other=0.0).to(ACC)
    if HAS_Z:
        ce += w * zeta * row_lse * row_lse
    nan = float("nan")
    tl.store(loss + row, tl.where(counted, tl.where(bad, nan, ce), 0.0), mask=inside)
    tl.store(weight + row, tl.where(counted, tl.where(bad, nan, w), 0.0), mask=inside)
    tl.store(largest + row, tl.where(counted, tl.where(bad, nan, m), 0.0), mask=inside)
    tl.store(logsum + row, tl.where(counted, log_s, 0.0), mask=inside)
    tl.store(mass + row, tl.where(counted, a, 0.0), mask=inside)
    if WITH_STATS:
        row_lse, best = lse_and_best(m, s, row_lse, best, nan_at)
        tl.store(lse + row, tl.where(counted, tl.where(bad, nan, row_lse), 0.0), mask=inside)
        tl.store(entropy + row, tl.where(counted, log_s + h / s, 0.0), mask=inside)
        tl.store(prediction + row, tl.where(counted, best, -1).to(tl.int64), mask=inside)


@triton.jit
def _gradient_kernel(
    hidden, linear, bias, target, probabilities, class_weight,
    largest, logsum, mass, entropy, g_loss, g_lse, g_entropy, gradient, of_bias,
    count, classes, features, entries, hidden_stride, linear_stride, target_row, target_class,
    g_loss_stride, g_lse_stride, g_entropy_stride,
    ignore_index, keep: tl.float64, share: tl.float64, zeta: tl.float64, cap: tl.float64, scale: tl.float64,
    least: tl.float64,
    ACC: tl.constexpr, TARGET: tl.constexpr, SMOOTHED: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_LOSS: tl.constexpr, HAS_LSE: tl.constexpr, HAS_ENTROPY: tl.constexpr,
    WANTED: tl.constexpr, OF_WEIGHT: tl.constexpr, OF_BIAS: tl.constexpr, FILTERED: tl.constexpr,
    ENTRIES: tl.constexpr,
    ROWS: tl.constexpr, CLASSES: tl.constexpr, INNER: tl.constexpr, FEATURES: tl.constexpr,
):  # fmt: skip
    """A block of d hidden (rows, features), or OF_WEIGHT of d weight (classes, features) if WANTED, and d bias."""
    keep, share, zeta = tl.full((), keep, ACC), tl.full((), share, ACC), tl.full((), zeta, ACC)
    cap, scale, least = tl.full((), cap, ACC), tl.full((), scale, ACC), tl.full((), least, ACC)
    block = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1).to(tl.int64) * FEATURES + tl.arange(0, FEATURES)
    if OF_WEIGHT:
        total = tl.full((CLASSES, FEATURES), 0.0, ACC)
        passing, step = count, ROWS
    else:
        total = tl.full((ROWS, FEATURES), 0.0, ACC)
        passing, step = classes, CLASSES
    bias_total = tl.full((CLASSES,), 0.0, ACC)
    for start in range(0, passing, step):
        if OF_WEIGHT:
            row, column = (start + tl.arange(0, ROWS)).to(tl.int64), block * CLASSES + tl.arange(0, CLASSES)
        else:
            row, column = block * ROWS + tl.arange(0, ROWS), (start + tl.arange(0, CLASSES)).to(tl.int64)
        inside = row < count
        counted, _ = counted_rows(target, row, inside, classes, entries, ignore_index, TARGET, ENTRIES)
        mask = counted[:, None] & (column < classes)[None, :]
        x = logits_tile(hidden, linear, bias, row, column, count, classes, features, hidden_stride, linear_stride,
                        ACC, HAS_BIAS, ROWS, CLASSES, INNER)  # fmt: skip
        z, bend = scaled(x, scale, cap, HAS_SCALE, HAS_CAP)
        _, t = target_tile(target, probabilities, class_weight, row, column, mask, classes, entries, target_row,
                           target_class, ignore_index, keep, share,
                           ACC, TARGET, SMOOTHED, HAS_CLASS_WEIGHT)  # fmt: skip
        m = tl.load(largest + row, mask=inside, other=0.0)
        log_s = tl.load(logsum + row, mask=inside, other=0.0)
        g = upstream_at(g_loss, row, g_loss_stride, inside, ACC, HAS_LOSS)
        of_h = upstream_at(g_entropy, row, g_entropy_stride, inside, ACC, HAS_ENTROPY)
        h = upstream_at(entropy, row, 1, inside, ACC, HAS_ENTROPY)
        of_p = g * tl.load(mass + row, mask=inside, other=0.0)
        of_p += upstream_at(g_lse, row, g_lse_stride, inside, ACC, HAS_LSE)
        if HAS_Z:
            w = tl.full((ROWS,), 1.0, ACC)
            if (TARGET == HARD) and HAS_CLASS_WEIGHT:
                y = tl.load(target + row, mask=counted, other=0)
                w = tl.load(class_weight + y, mask=counted & (y >= 0) & (y < classes), other=0.0).to(ACC)
            of_p += 2.0 * g * w * zeta * (m + log_s)
        made = gradient_of(z, bend, t, m[:, None], log_s[:, None], of_p[:, None], g[:, None], of_h[:, None],
                           h[:, None], scale, HAS_ENTROPY, HAS_SCALE)  # fmt: skip
        made = tl.where(mask, made, 0.0)
        adds = True
        if FILTERED:
            adds = tl.max(tl.where(tl.abs(made) <= least * tl.abs(g)[:, None], 0, 1)) > 0
        if adds:
            narrow = narrowed(made, gradient.dtype.element_ty)
            if OF_WEIGHT:
                if WANTED:
                    b = tl.load(hidden + row[:, None] * hidden_stride + d[None, :],
                                mask=inside[:, None] & (d < features)[None, :], other=0.0)  # fmt: skip
                    total = product(tl.trans(narrow), b, total, ACC)
                if OF_BIAS:
                    bias_total += tl.sum(made, 0)
            else:
                b = tl.load(linear + column[:, None] * linear_stride + d[None, :],
                            mask=(column < classes)[:, None] & (d < features)[None, :], other=0.0)  # fmt: skip
                total = product(narrow, b, total, ACC)
    if OF_WEIGHT:
        at, most = block * CLASSES + tl.arange(0, CLASSES), classes
        if OF_BIAS:  # noqa: SIM102  (the first is decided by the compiler, the second by the program)
            if tl.program_id(1) == 0:  # one of the blocks of features: all of them have the same sum
                tl.store(of_bias + at, narrowed(bias_total, of_bias.dtype.element_ty), mask=at < classes)
    else:
        at, most = block * ROWS + tl.arange(0, ROWS), count
    if WANTED:
        where = (at < most)[:, None] & (d < features)[None, :]
        tl.store(gradient + at[:, None] * features + d[None, :], narrowed(total, gradient.dtype.element_ty), mask=where)


def write_values(rows: Rows, hidden: Tensor, layer: tuple[Tensor, Tensor | None], values: Values, stats: bool) -> None:
    """Values of every row; `rows.logits` only say how many there are, on the meta device."""
    shape = _blocks(hidden, rows)
    with on_device(hidden):
        _forward_kernel[(triton.cdiv(len(hidden), shape["ROWS"]),)](
            hidden,
            *layer,
            *_targets(rows),
            *vars(values).values(),
            *_sizes(rows, hidden, layer[0]),
            **_options(rows, layer),
            WITH_STATS=stats,
            **{name: size for name, size in shape.items() if name != "FEATURES"},
        )


def write_gradients(
    rows: Rows, hidden: Tensor, layer: tuple[Tensor, Tensor | None], saved: Saved, upstream: Upstream,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None], least: float,
) -> None:  # fmt: skip
    """Gradients of hidden states, weight and bias, of those that there is room for."""
    of_hidden, of_weight, of_bias = gradients
    given, shape = (upstream.loss, upstream.lse, upstream.entropy), _blocks(hidden, rows)
    blocks = {False: triton.cdiv(len(hidden), shape["ROWS"]), True: triton.cdiv(rows.num_classes, shape["CLASSES"])}
    for of, gradient in ((False, of_hidden), (True, of_weight)):
        if gradient is None and not (of and of_bias is not None):
            continue
        across = 1 if gradient is None else max(triton.cdiv(hidden.shape[1], shape["FEATURES"]), 1)
        with on_device(hidden):
            _gradient_kernel[(blocks[of], across)](
                hidden,
                *layer,
                *_targets(rows),
                *vars(saved).values(),
                *given,
                hidden if gradient is None else gradient,  # not written
                of_bias,
                *_sizes(rows, hidden, layer[0]),
                *(0 if g is None else g.stride(0) for g in given),
                least=least,
                **_options(rows, layer),
                HAS_LOSS=upstream.loss is not None,
                HAS_LSE=upstream.lse is not None,
                HAS_ENTROPY=upstream.entropy is not None,
                WANTED=gradient is not None,
                OF_WEIGHT=of,
                OF_BIAS=of_bias is not None and of,
                FILTERED=least > 0,
                **shape,
            )


def _targets(rows: Rows) -> tuple[Tensor | None, ...]:
    weight = rows.terms.weight
    target = rows.target.detach() if rows.is_dense else rows.target.contiguous()
    probabilities = None if rows.probabilities is None else rows.probabilities.detach().contiguous()
    return target, probabilities, None if weight is None else weight.detach().contiguous()


def _sizes(rows: Rows, hidden: Tensor, linear: Tensor) -> tuple[int, ...]:
    entries = 0 if rows.probabilities is None else rows.target.shape[-1]
    dense = rows.target.stride() if rows.is_dense else (0, 0)
    return len(hidden), rows.num_classes, hidden.shape[1], entries, hidden.stride(0), linear.stride(0), *dense


def _options(rows: Rows, layer: tuple[Tensor, Tensor | None]) -> dict[str, object]:
    flags = {name: flag for name, flag in kernel_flags(rows).items() if name not in ("KEEP", "HAS_ROW_WEIGHT")}
    entries = 1 if rows.probabilities is None else triton.next_power_of_2(rows.target.shape[-1])
    numbers = kernel_numbers(rows)
    return {"ignore_index": rows.terms.ignore_index, **numbers, **flags, "HAS_BIAS": layer[1] is not None,
            "ENTRIES": entries}  # fmt: skip


def _blocks(hidden: Tensor, rows: Rows) -> dict[str, int]:
    """Sizes of the blocks; those of half the width where elements are twice as wide."""
    narrow = hidden.element_size() // 4 if hidden.element_size() > 4 else 1

    def fitting(most: int, size: int) -> int:
        return max(min(most // narrow, triton.next_power_of_2(size)), _SMALL)

    return {
        "ROWS": fitting(_ROWS, len(hidden)),
        "CLASSES": fitting(_CLASSES, rows.num_classes),
        "INNER": fitting(_INNER, hidden.shape[1]),
        "FEATURES": fitting(_FEATURES, hidden.shape[1]),
        "num_warps": 8,
    }
