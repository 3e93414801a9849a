"""One rank's logits of a linear loss, a few rows at a time: states forward; backward again, gradient, two products.

step   rows · V_r logits at a time; the last chunk stays for the backward pass, which begins with it
tile   or, backward, all rows · so many classes at a time: over chunks of rows the gradient of a half weight is a sum in
       float32, for which the memory may have no room
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xent.backends.native.linear_products import PLATFORM, Products, block_bytes, edge_within, widened
from xent.distributed import _shard_formula, _shard_kernels
from xent.distributed._shard import Shard, ShardState
from xent.distributed._shard_kernels import Saved, StateGradients
from xent.errors import BackendError
from xent.head import HeadRows
from xent.problem import HALF, counted_mask

MIB = 1 << 20
DEFAULT_BYTES = 64 * MIB  # or a tenth of inputs and gradients where that is more: as `linear_cross_entropy`
_COPIES = {"kernels": 1, "formula": 8}  # of a chunk's logits; plain torch holds several
_FEW_ROWS = 64  # at a time: below, a product is slower than two of them by tiles of classes
_SHARE_OF_BLOCKS = 4  # a quarter of the memory for the blocks that are widened


@dataclass(eq=False)
class HeadGradients:
    """Gradients; of the hidden states those of the counted rows (M, D), with one number more.

    Attributes:
        hidden: (M·D + 1,): what is summed over the ranks, and at its end how many of them failed.
        weight: (V_r, D).
        bias: (V_r,).
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


class LinearWork:
    """The counted rows of a linear problem on one rank.

    Raises:
        BackendError: `max_memory` is less than one row of logits.
    """

    def __init__(self, problem: HeadRows, file: str) -> None:
        hidden = problem.hidden.detach().reshape(-1, problem.hidden.shape[-1])
        mask = counted_mask(problem)
        mask = None if mask is None else mask.reshape(-1)
        self.problem, self.file = problem, file
        self.kept = None if mask is None or bool(mask.all()) else mask.nonzero().squeeze(1)
        self.hidden = hidden if self.kept is None else hidden[self.kept]
        self.weight = problem.weight.detach()
        self.bias = None if problem.bias is None else problem.bias.detach()
        self.cut = _cut(problem, len(self.hidden), file)
        self.products = self.cut.products
        self._saved: list[Saved | None] = []
        self._last: tuple[int, Tensor] | None = None
        self._room: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def begin(self) -> None:
        """Make the first logits: needs nothing of the other ranks."""
        if len(self):
            self._last = (0, self._logits(0))

    @property
    def sums_weight(self) -> bool:
        """Whether the weight's gradient is a sum over chunks."""
        return not self.cut.tile and len(self._starts()) > 1

    def _starts(self) -> list[int]:
        return list(range(0, len(self), self.cut.step))

    def _rows_at(self, start: int) -> slice:
        return slice(start, start + self.cut.step)

    def _logits(self, start: int) -> Tensor:
        rows = self.hidden[self._rows_at(start)]
        logits = self._view(len(rows), len(self.weight))
        if len(self.weight):
            self.products.write(logits, rows, self.weight.t(), self.bias)
        return logits

    def _view(self, rows: int, columns: int) -> Tensor:
        """Room for logits, one for all parts: of pieces that are freed one by one malloc keeps three or four."""
        if self._room is None or len(self._room) < rows * columns:
            self._room = None
            self._room = torch.empty((rows * columns,), dtype=self.hidden.dtype, device=self.hidden.device)
        return self._room[: rows * columns].view(rows, columns)

    def _taken(self, start: int) -> Tensor:
        """The logits of a chunk, those at hand or made now; none stay at hand."""
        kept, self._last = self._last, None
        if kept is not None and kept[0] == start:
            return kept[1]
        del kept
        return self._logits(start)

    def _chunk(self, shard: Shard, chunk: slice, logits: Tensor) -> Shard:
        def rows(value: Tensor, features: int) -> Tensor:
            shape = (value.shape[:-1].numel(), value.shape[-1]) if features else (-1,)  # −1 knows nothing of 0 classes
            flat = value.detach().reshape(shape)
            flat = flat if self.kept is None else flat[self.kept]
            return flat[chunk]

        features = 0 if shard.is_hard else 1
        probabilities = None if shard.probabilities is None else rows(shard.probabilities, 1)
        return replace(
            shard,
            logits=logits,
            target=rows(shard.target, features),
            probabilities=probabilities,
            terms=replace(shard.terms, row_weight=None),
        )

    def states(self, shard: Shard, keep: bool) -> ShardState:
        """The states of all counted rows, (M,), without autograd; the last logits stay if `keep`."""
        parts: list[ShardState] = []
        self._saved = []
        for start in self._starts() or [0]:
            logits = self._taken(start)
            chunk = self._chunk(shard, self._rows_at(start), logits)
            if self.file == "kernels" and chunk.width:
                state, saved = _shard_kernels.values_of(chunk)
            else:
                state, saved = _shard_formula.state_of(chunk), None
            parts.append(state)
            self._saved.append(saved if keep else None)
            self._last = (start, logits) if keep and not self.cut.tile else None
            del logits, chunk
        if self._last is None:
            self._room = None
        whole: dict[str, Any] = {name: _joined([vars(part)[name] for part in parts]) for name in vars(parts[0])}
        return ShardState(**whole)

    def backward(self, shard: Shard, upstream: StateGradients) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, classes and gradient of the logits of every part."""
        return self._by_classes(shard, upstream) if self.cut.tile else self._by_rows(shard, upstream)

    def _by_rows(self, shard: Shard, upstream: StateGradients) -> Iterator[tuple[slice, slice, Tensor]]:
        """The kept chunk first, the rest in their order."""
        last = self._last[0] if self._last is not None else None
        starts = self._starts()
        order = starts if last is None else [last, *(start for start in starts if start != last)]
        for start in order:
            logits, rows = self._taken(start), self._rows_at(start)
            parts = (upstream.rest, upstream.spread, upstream.entropy)
            given = StateGradients(*(None if part is None else part[rows] for part in parts))
            saved = self._saved[start // self.cut.step]
            yield rows, slice(None), self._gradient(self._chunk(shard, rows, logits), saved, given)
        self._room = None

    def _by_classes(self, shard: Shard, upstream: StateGradients) -> Iterator[tuple[slice, slice, Tensor]]:
        saved: dict[str, Any] = {
            name: _joined([getattr(part, name) for part in self._saved]) for name in ("lse", "lse_low", "entropy")
        }
        every = slice(None)
        for first in range(0, len(self.weight), self.cut.tile):
            classes = slice(first, min(first + self.cut.tile, len(self.weight)))
            logits = self._view(len(self), classes.stop - first)
            bias = None if self.bias is None else self.bias[classes]
            self.products.write(logits, self.hidden, self.weight[classes].t(), bias)
            part = _of_classes(self._chunk(shard, every, logits), classes)
            _shard_kernels.write_gradient(part, Saved(**saved), upstream, logits)
            yield every, classes, logits
        self._room = None

    def _gradient(self, chunk: Shard, saved: Saved | None, given: StateGradients) -> Tensor:
        if saved is not None:
            _shard_kernels.write_gradient(chunk, saved, given, chunk.logits)  # over the logits, which are ours
            return chunk.logits
        if not chunk.width:
            return chunk.logits
        with torch.enable_grad():
            logits = chunk.logits.detach().requires_grad_()
            state = _shard_formula.state_of(replace(chunk, logits=logits))
            pairs = ((state.rest, given.rest), (state.spread, given.spread), (state.entropy, given.entropy))
            pairs = [(value, g) for value, g in pairs if value is not None and g is not None and value.requires_grad]
            if not pairs:
                return torch.zeros_like(logits)
            return torch.autograd.grad([v for v, _ in pairs], logits, [g for _, g in pairs])[0]


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Sums of half numbers are made in float32."""
    return torch.float32 if dtype in HALF else dtype


def _of_classes(shard: Shard, classes: slice) -> Shard:
    """Some of the classes of a shard, whose logits are those already."""
    terms, target = shard.terms, shard.target
    if terms.weight is not None:
        terms = replace(terms, weight=terms.weight[classes])
    target = target[:, classes] if shard.is_dense else target
    return replace(shard, terms=terms, target=target, start=shard.start + classes.start)


@dataclass(frozen=True)
class Cut:
    """How the logits are cut: `step` rows at a time, and backward `tile` classes at a time; 0 for by rows, too."""

    step: int
    tile: int
    products: Products


def _cut(problem: HeadRows, num_rows: int, file: str) -> Cut:
    """How logits are cut and products are made within the memory.

    Raises:
        BackendError: `max_memory` is less than the smallest part takes.
    """
    hidden, weight = problem.hidden, problem.weight
    inputs = (hidden.numel() + weight.numel()) * hidden.element_size()
    bound = problem.max_memory if problem.max_memory is not None else max(DEFAULT_BYTES, 2 * inputs // 10)
    products = PLATFORM
    if hidden.device.type == "cpu" and widened(hidden.dtype):
        products = Products(edge_within(bound // _SHARE_OF_BLOCKS))
        bound -= block_bytes(products.edge)
    row = max(len(weight) * hidden.element_size() * _COPIES[file], 1)
    tile, sums = 0, _sum_bytes(problem)
    if sums and bound < num_rows * row:  # more than one chunk
        tile = _tile(problem, num_rows, bound) if file == "kernels" and bound < sums + _FEW_ROWS * row else 0
        bound -= 0 if tile or problem.max_memory is None else sums
    if problem.max_memory is not None and bound < row:
        raise BackendError(
            f"max_memory={problem.max_memory} bytes for {len(weight)} classes on this rank",
            f"the smallest chunk, one row, takes {row} bytes beside the blocks of a product and a half gradient's sum",
            "raise max_memory",
        )
    most = max(bound // row, 1)
    num_chunks = max(-(-num_rows // most), 1)
    return Cut(max(-(-num_rows // num_chunks), 1), tile, products)


def _tile(problem: HeadRows, num_rows: int, bound: int) -> int:
    """Classes of all rows within the memory."""
    return min(bound // max(num_rows * problem.hidden.element_size(), 1), len(problem.weight))


def _sum_bytes(problem: HeadRows) -> int:
    """What a float32 sum of the weight's gradient takes, where one over chunks is another tensor than the gradient."""
    weight = problem.weight
    needed = torch.is_grad_enabled() and weight.requires_grad and accumulator(weight.dtype) != weight.dtype
    return 4 * weight.numel() if needed else 0
