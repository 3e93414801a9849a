"""Log-softmax over the last dimension, from the state (m, s) of the row.

    ln p = (x − m) − ln s               one read for the state, one (mostly from the cache) and a write for the result
    gradient: g − exp(ln p) · Σ g       the same, with Σ g for the state

A row that fits a program's tile is read once.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import RowCall, kernel_flags, row_call, rows_alone
from xent.backends.triton.launches import Launch
from xent.backends.triton.row_layout import empty_gradient
from xent.backends.triton.tile_math import base, log_sum, narrowed
from xent.problem import Rows, stats_dtype
from xent.terms import LossTerms


@triton.jit
def _forward_kernel(
    input, result, largest, logsum,
    classes, num_inner, blocks,
    input_outer, input_inner, input_class, result_outer, result_inner, result_class,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    inner = ((program % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = (inner < num_inner)[:, None]
    x_row = (input + outer * input_outer + inner * input_inner)[:, None]
    y_row = (result + outer * result_outer + inner * result_inner)[:, None]
    m = tl.full((ROWS,), -float("inf"), ACC)
    s = tl.full((ROWS,), 0.0, ACC)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        x = tl.load(x_row + column * input_class, mask=inside & (column < classes), other=-float("inf")).to(ACC)
        new_m = tl.maximum(m, tl.max(x, 1))
        reference = base(new_m)
        s = s * tl.exp(m - reference) + tl.sum(tl.exp(x - reference[:, None]), 1)
        m = new_m
    log_s = log_sum(m, s)
    row = outer * num_inner + inner
    tl.store(largest + row, m, mask=inner < num_inner)
    tl.store(logsum + row, log_s, mask=inner < num_inner)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        mask = inside & (column < classes)
        x = tl.load(x_row + column * input_class, mask=mask, other=-float("inf")).to(ACC)
        log_p = (x - m[:, None]) - log_s[:, None]
        tl.store(y_row + column * result_class, narrowed(log_p, result.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_kernel(
    input, upstream, largest, logsum, gradient,
    classes, num_inner, blocks,
    input_outer, input_inner, input_class, upstream_outer, upstream_inner, upstream_class,
    gradient_outer, gradient_inner, gradient_class,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    inner = ((program % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    inside = (inner < num_inner)[:, None]
    x_row = (input + outer * input_outer + inner * input_inner)[:, None]
    up_row = (upstream + outer * upstream_outer + inner * upstream_inner)[:, None]
    g_row = (gradient + outer * gradient_outer + inner * gradient_inner)[:, None]
    row = outer * num_inner + inner
    m = tl.load(largest + row, mask=inner < num_inner, other=0.0)[:, None]
    log_s = tl.load(logsum + row, mask=inner < num_inner, other=0.0)[:, None]
    total = tl.full((ROWS,), 0.0, ACC)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        g = tl.load(up_row + column * upstream_class, mask=inside & (column < classes), other=0.0).to(ACC)
        total += tl.sum(g, 1)
    for start in range(0, classes, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        mask = inside & (column < classes)
        x = tl.load(x_row + column * input_class, mask=mask, other=0.0).to(ACC)
        g = tl.load(up_row + column * upstream_class, mask=mask, other=0.0).to(ACC)
        made = g - tl.exp((x - m) - log_s) * total[:, None]
        tl.store(g_row + column * gradient_class, narrowed(made, gradient.dtype.element_ty), mask=mask)


def forward(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (*rows, C), in the dtype and layout of the input; m and ln s of every row, (N,)."""
    result, count = empty_gradient(input), input.shape[:-1].numel()
    largest, logsum = (torch.empty(count, dtype=stats_dtype(input.dtype), device=input.device) for _ in range(2))
    call = row_call("log_softmax", rows_alone(input), result)
    call.run(lambda launch: _launch(_forward_kernel, call, (result, largest, logsum), launch))
    return result, largest, logsum


def gradient(input: Tensor, largest: Tensor, logsum: Tensor, upstream: Tensor) -> Tensor:
    """dL/dinput from dL/dln p; ln p is made again from the input, for a half result is rounded."""
    buffer = empty_gradient(input)
    # The upstream gradient takes the place of a dense target: a second tensor of that shape, in strides of its own.
    call = row_call("log_softmax_gradient", Rows(input, upstream, LossTerms()), buffer)
    call.run(lambda launch: _launch(_gradient_kernel, call, (call.problem.target, largest, logsum, buffer), launch))
    return buffer


def _launch(kernel: Any, call: RowCall, others: tuple[Tensor, ...], launch: Launch) -> None:
    strides = (stride for strides in call.layout.strides for stride in strides)
    sizes, acc = call.sizes(launch)[:3], kernel_flags(call.problem)["ACC"]
    call.start(kernel, launch, (call.problem.logits, *others), (*sizes, *strides), {"ACC": acc})
