"""Log-sum-exp over the last dimension: m + ln s, with the state (m, s) of cross_entropy.py and no target.

gradient: exp((x − m) − ln s) · g, the kernel of cross_entropy_gradient.py with an upstream gradient of lse alone.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import RowCall, kernel_flags, row_call, rows_alone
from xent.backends.triton.cross_entropy import Saved
from xent.backends.triton.cross_entropy_gradient import Upstream, write_gradient
from xent.backends.triton.launches import Launch
from xent.backends.triton.row_layout import empty_gradient
from xent.backends.triton.tile_math import base
from xent.problem import stats_dtype


@triton.jit
def _forward_kernel(
    logits, lse, largest, logsum,
    classes, num_inner, blocks, logits_outer, logits_inner, logits_class,
    ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    inner = (program % blocks) * ROWS + tl.arange(0, ROWS)
    inside = inner < num_inner
    row = outer * num_inner + inner
    x_row = (logits + outer * logits_outer + inner.to(tl.int64) * logits_inner)[:, None]
    m = tl.full((ROWS,), -float("inf"), ACC)
    s = tl.full((ROWS,), 0.0, ACC)
    for start in range(0, classes, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (column < classes)[None, :]
        x = tl.load(x_row + column.to(tl.int64)[None, :] * logits_class, mask=mask, other=-float("inf")).to(ACC)
        new_m = tl.maximum(m, tl.max(x, 1))
        reference = base(new_m)
        # Two equal infinities are 0 apart here: their logarithm is an infinity, not the NaN of a softmax.
        above = tl.where(x == reference[:, None], 0.0, x - reference[:, None])
        s = s * tl.exp(tl.where(m == reference, 0.0, m - reference)) + tl.sum(tl.exp(above), 1)
        m = new_m
    log_s = tl.log(s)
    empty = m == -float("inf")
    infinite = empty | (m == float("inf"))
    result = tl.where(empty & (s == 0), -float("inf"), m + log_s)
    tl.store(lse + row, result, mask=inside)
    # An infinite result has no softmax: its gradient is NaN.
    tl.store(largest + row, tl.where(infinite, float("nan"), m), mask=inside)
    tl.store(logsum + row, log_s, mask=inside)


def forward(input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The result, m and ln s of every row, each (N,), in the dtype of the statistics."""
    count, dtype = input.shape[:-1].numel(), stats_dtype(input.dtype)
    lse, largest, logsum = (torch.empty(count, dtype=dtype, device=input.device) for _ in range(3))
    call = row_call("logsumexp", rows_alone(input))
    call.run(lambda launch: _launch(call, (lse, largest, logsum), launch))
    return lse, largest, logsum


def gradient(input: Tensor, largest: Tensor, logsum: Tensor, upstream: Tensor) -> Tensor:
    """dL/dinput (*rows, C)."""
    buffer = empty_gradient(input)
    write_gradient(rows_alone(input), Saved(largest, logsum, None, None), Upstream(None, upstream), buffer)
    return buffer


def _launch(call: RowCall, outputs: tuple[Tensor, ...], launch: Launch) -> None:
    sizes, acc = call.sizes(launch)[:3], kernel_flags(call.problem)["ACC"]
    numbers = *sizes, *call.layout.strides[0]
    call.start(_forward_kernel, launch, (call.problem.logits, *outputs), numbers, {"ACC": acc})
