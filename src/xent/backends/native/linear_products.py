"""The matrix products of a linear loss: the platform's own, or of half matrices in float32, a block at a time.

torch multiplies half matrices fast only where oneDNN has instructions for them. Elsewhere its loops reach between 20
and 0.7 GFLOP/s on two cores whose float32 product reaches 100. There, blocks of both matrices are widened to float32,
which is exact, multiplied and summed in float32, and rounded once: at the speed of float32 less some percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from xent.problem import HALF

ROW_BLOCK = 1024  # rows that a half product which is added to float32 makes at a time
SUM_PIECE = 1 << 16  # half numbers that are widened to be summed at a time
_PANEL = (
    512  # columns; measured with float32 on AVX2: 128 GFLOP/s against 88 for 304 rows and all 50257 columns at once
)
_PANEL_ROWS = 1024  # with more rows there is nothing to gain
_PANEL_FLOPS = 1e8  # below, starting the threads would show
_EDGES = (1024, 512, 256, 128, 64)


@cache
def widened(dtype: torch.dtype) -> bool:
    """Whether products of this dtype are made in float32."""
    if dtype not in HALF:
        return False
    name = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    supported = getattr(torch.ops.mkldnn, name, None)
    return supported is not None and not supported()


def edge_within(num_bytes: int) -> int:
    """The largest edge of a block whose three float32 squares take no more than that; the smallest if none does."""
    return next((edge for edge in _EDGES if block_bytes(edge) <= num_bytes), _EDGES[-1])


def block_bytes(edge: int) -> int:
    """What the blocks of both factors and of their product take."""
    return 3 * 4 * edge * edge


@dataclass(frozen=True)
class Products:
    """How products are made.

    Attributes:
        edge: of the blocks that are widened to float32; 0 for the platform's product as it is.
    """

    edge: int = 0

    def write(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None) -> None:
        """`out` = a @ b + bias; `out` may be wider than the factors."""
        if self.edge:
            self._by_blocks(out, a, b, bias, add=False)
        elif out.dtype != a.dtype:
            out.copy_(a @ b if bias is None else torch.addmm(bias, a, b))
        else:
            for columns in _panels(a, b):
                if bias is None:
                    torch.mm(a, b[:, columns], out=out[:, columns])
                else:
                    torch.addmm(bias[columns], a, b[:, columns], out=out[:, columns])

    def add(self, out: Tensor, a: Tensor, b: Tensor) -> None:
        """`out` += a @ b; `out` may be wider than the factors."""
        if self.edge:
            self._by_blocks(out, a, b, None, add=True)
        elif out.dtype == a.dtype:
            out.addmm_(a, b)
        else:
            for start in range(0, len(a), ROW_BLOCK):
                out[start : start + ROW_BLOCK] += a[start : start + ROW_BLOCK] @ b

    def _by_blocks(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, *, add: bool) -> None:
        edge, (height, depth), width = self.edge, a.shape, b.shape[1]
        block = _Blocks(edge)
        for top in range(0, height, edge):
            rows = slice(top, min(top + edge, height))
            for left in range(0, width, edge):
                columns = slice(left, min(left + edge, width))
                total = block.begun(out[rows, columns], None if bias is None else bias[columns], add)
                for start in range(0, depth, edge):
                    inner = slice(start, min(start + edge, depth))
                    total.addmm_(block.wide(0, a[rows, inner]), block.wide(1, b[inner, columns]))
                if total.dtype != out.dtype or total.data_ptr() != out[rows, columns].data_ptr():
                    out[rows, columns] = total


PLATFORM = Products()


def add_column_sums(out: Tensor, part: Tensor) -> None:
    """`out` += Σ over the rows of `part`; torch would widen all of a half matrix to sum it in float32."""
    step = max(len(part) if out.dtype == part.dtype else SUM_PIECE // max(part.shape[1], 1), 1)
    for start in range(0, len(part), step):
        out += part[start : start + step].sum(0, dtype=out.dtype)


def multiplies_as_it_is(matrix: Tensor) -> bool:
    """Whether a product reads the last two dimensions of this tensor without a copy."""
    if matrix.ndim < 2 or matrix.numel() == 0:
        return True
    (height, width), (down, right) = matrix.shape[-2:], matrix.stride()[-2:]
    return (right == 1 and down >= max(width, 1)) or (down == 1 and right >= max(height, 1))


def _panels(a: Tensor, b: Tensor) -> list[slice]:
    """Columns of a product that are made at a time: few rows of `a` stay in the cache over a panel of a wide `b`."""
    (height, depth), width = a.shape, b.shape[1]
    if a.dtype != torch.float32 or height > _PANEL_ROWS or width <= 2 * _PANEL or b.stride(0) > b.stride(1):
        return [slice(None)]
    step = max(_PANEL, int(_PANEL_FLOPS / max(2 * height * depth, 1)))
    return [slice(left, min(left + step, width)) for left in range(0, width, step)]


class _Blocks:
    """Room for a block of each factor and one of their product, in float32."""

    def __init__(self, edge: int) -> None:
        self._room = [torch.empty(edge * edge, dtype=torch.float32) for _ in range(3)]

    def wide(self, number: int, part: Tensor) -> Tensor:
        """A part of a factor in float32, in the order of memory that it has."""
        room = self._room[number][: part.numel()]
        if part.stride(0) < part.stride(1):
            return room.view(part.shape[1], part.shape[0]).copy_(part.t()).t()
        return room.view(part.shape).copy_(part)

    def begun(self, out: Tensor, bias: Tensor | None, add: bool) -> Tensor:
        """Where a block of the product is summed, with what it begins with in it."""
        total = out if out.dtype == torch.float32 else self._room[2][: out.numel()].view(out.shape)
        if add:
            return total if total is out else total.copy_(out)
        return total.zero_() if bias is None else total.copy_(bias.expand_as(out))
