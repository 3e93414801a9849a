"""x ← g · x for one number g on the GPU; where g is 1, as in `loss.backward()`, nothing is read or written.

The host does not know g, and must not wait for it.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportInvalidTypeForm=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# The language inside a kernel has types of its own, and a launch takes its options beside the kernel's arguments.

from __future__ import annotations

import triton.language as tl
from torch import Tensor

import triton
from xent.backends.triton.calls import on_device
from xent.backends.triton.tile_math import narrowed

_BLOCK = 4096


@triton.jit
def _scale_kernel(x, factor, count, BLOCK: tl.constexpr):
    g = tl.load(factor)
    if g != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = at < count
        value = tl.load(x + at, mask=mask, other=0.0).to(g.dtype) * g
        tl.store(x + at, narrowed(value, x.dtype.element_ty), mask=mask)


def scale_in_place(x: Tensor, factor: Tensor) -> None:
    """Multiply a contiguous tensor by a scalar tensor, in the scalar's dtype."""
    if x.numel() == 0:
        return
    with on_device(x):
        _scale_kernel[(triton.cdiv(x.numel(), _BLOCK),)](x, factor, x.numel(), BLOCK=_BLOCK, num_warps=8)
