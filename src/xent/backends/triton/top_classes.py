"""The k most likely classes of rows of logits, the likeliest first, equals in the order of their class.

k passes over a row, each for the best of what comes after the last one found in that order: by z, then by class. A row
that the first pass read comes from the cache in the others; nothing of the size of the logits is made.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import RowCall, row_call
from xent.backends.triton.launches import Launch
from xent.backends.triton.tile_math import scaled
from xent.problem import Rows


@triton.jit
def _top_kernel(
    logits, index, value,
    classes, num_inner, blocks, logits_outer, logits_inner, logits_class, count,
    cap: tl.float64, scale: tl.float64,
    ACC: tl.constexpr, HAS_CAP: tl.constexpr, HAS_SCALE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    cap, scale = tl.full((), cap, ACC), tl.full((), scale, ACC)
    program = tl.program_id(0)
    outer = (program // blocks).to(tl.int64)
    inner = (program % blocks) * ROWS + tl.arange(0, ROWS)
    inside = inner < num_inner
    row = outer * num_inner + inner
    x_row = (logits + outer * logits_outer + inner.to(tl.int64) * logits_inner)[:, None]
    last_z = tl.full((ROWS,), float("inf"), ACC)
    last = tl.full((ROWS,), -1, tl.int32)
    for place in range(0, count):
        best_z = tl.full((ROWS,), -float("inf"), ACC)
        best = tl.full((ROWS,), classes - 1, tl.int32)
        for start in range(0, classes, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            mask = inside[:, None] & (column < classes)[None, :]
            x = tl.load(x_row + column.to(tl.int64)[None, :] * logits_class, mask=mask, other=0.0).to(ACC)
            z, _ = scaled(x, scale, cap, HAS_SCALE, HAS_CAP)
            later = (z < last_z[:, None]) | ((z == last_z[:, None]) & (column[None, :] > last[:, None]))
            open_class = mask & later
            here_z = tl.max(tl.where(open_class, z, -float("inf")), 1)
            at_best = open_class & (z == here_z[:, None])
            here = tl.min(tl.where(at_best, column[None, :], classes), 1)
            better = (here < classes) & ((here_z > best_z) | (best_z == -float("inf")) & (here < best))
            best = tl.where(better, here, best)
            best_z = tl.where(better, here_z, best_z)
        tl.store(index + row * count + place, best.to(tl.int64), mask=inside)
        tl.store(value + row * count + place, best_z, mask=inside)
        last_z, last = best_z, best


def top_classes(problem: Rows, count: int) -> tuple[Tensor, Tensor]:
    """Indices (N, count) int64 of the largest z, and these."""
    logits = problem.logits
    shape = logits.shape[:-1].numel(), count
    index = torch.empty(shape, dtype=torch.int64, device=logits.device)
    value = torch.empty(shape, dtype=problem.stats_dtype, device=logits.device)
    if count:
        call = row_call("top_classes", problem)
        call.run(lambda launch: _launch(call, index, value, launch))
    return index, value


def _launch(call: RowCall, index: Tensor, value: Tensor, launch: Launch) -> None:
    classes, num_inner, blocks, _, *strides = call.sizes(launch)
    sizes = classes, num_inner, blocks, *strides[:3], index.shape[1]
    options = call.options()
    named = {name: options[name] for name in ("cap", "scale", "ACC", "HAS_CAP", "HAS_SCALE")}
    call.start(_top_kernel, launch, (call.problem.logits, index, value), sizes, named)
