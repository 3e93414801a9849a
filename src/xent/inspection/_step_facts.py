"""Whether a step made again is the step, and the causes that the update is the sum of.

Both are sums and maxima over entries, and every formula is one for each entry. So large parameters are taken a block
at a time: a block and all that the formula makes of it stay in the processor's cache, where a whole parameter would
fill fresh memory a dozen times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xent.inspection._optimizer_formulas import Formula, Recomputed, Taken
from xent.inspection._step_equality import StepEquality, step_equality

BLOCK = 1 << 15  # entries: more are shared out by torch, and 30 operations a block would each wait for all threads


@dataclass(frozen=True)
class Part:
    """One cause of an update.

    Attributes:
        cause: "this gradient", "earlier steps" or "weight decay".
        share: which part of the update it is, by its projection on it; the shares add up to 1.
        norm: √Σx² of what it adds.
    """

    cause: str
    share: float
    norm: float


Facts = tuple[StepEquality, list[Part]]


@torch.no_grad()
def facts_of(taken: Taken, after: Tensor, formula: Formula) -> Facts:
    """Of a parameter as it was when the step began and as the step left it."""
    sums = _Sums()
    for start, block, end in _blocks(taken, after):
        sums.add(start, block.value, end, formula.recompute(block))
    return sums.facts(after)


@torch.no_grad()
def facts_of_whole(before: Tensor, after: Tensor, made: Recomputed) -> Facts:
    """The same of a step that was made again already."""
    sums = _Sums()
    sums.add(0, before, after, made)
    return sums.facts(after)


def promised(raw: Tensor, before: Tensor, after: Tensor) -> float:
    """Σ raw · (after − before): the difference in the parameter's dtype, as it is shown, the rest in float64."""
    if _is_plain(after) and all(_is_plain(one) and one.shape == after.shape for one in (raw, before)):
        pieces = zip(*(one.view(-1).split(BLOCK) for one in (raw, before, after)), strict=True)
        return sum(float(torch.dot(g.double(), (b - a).double())) for g, a, b in pieces)
    return float((raw.double() * (after - before).double()).sum())


def _blocks(taken: Taken, after: Tensor) -> Iterator[tuple[int, Taken, Tensor]]:
    """The first entry of each block, the block, and what became of it."""
    state = {name: one for name, one in taken.state.items() if isinstance(one, Tensor) and one.shape == after.shape}
    whole = [taken.value, taken.gradient, after, *state.values()]
    if after.numel() <= BLOCK or not all(map(_is_plain, whole)):
        yield 0, taken, after
        return
    for start in range(0, after.numel(), BLOCK):
        value, gradient, end, *held = (one.view(-1)[start : start + BLOCK] for one in whole)
        cut = {**taken.state, **dict(zip(state, held, strict=True))}
        yield start, replace(taken, value=value, gradient=gradient, state=cut), end


def _is_plain(tensor: Tensor) -> bool:
    """Whether it can be cut by place; on a GPU every block would be a row of launches."""
    return tensor.layout == torch.strided and tensor.is_cpu and tensor.is_contiguous() and not tensor.is_complex()


class _Sums:
    """What the blocks of a parameter come to."""

    def __init__(self) -> None:
        self._whole: list[float] = []
        self._along: dict[str, list[float]] = {}
        self._squares: dict[str, list[float]] = {}
        self._equality: list[tuple[int, StepEquality]] = []

    def add(self, start: int, before: Tensor, after: Tensor, made: Recomputed) -> None:
        self._equality.append((start, step_equality(before, after, made.after)))
        update = (after.double() - before.double()).reshape(-1)
        self._whole.append(float(update.dot(update)))
        for cause, part in made.parts().items():
            flat = part.reshape(-1)
            self._along.setdefault(cause, []).append(float(flat.dot(update)))
            self._squares.setdefault(cause, []).append(float(flat.dot(flat)))

    def facts(self, after: Tensor) -> Facts:
        whole = sum(self._whole)
        parts = [
            Part(cause, sum(along) / whole if whole else 0.0, math.sqrt(sum(self._squares[cause])))
            for cause, along in self._along.items()
        ]
        return self._joined(after), parts

    def _joined(self, after: Tensor) -> StepEquality:
        start, worst = max(self._equality, key=lambda found: found[1].ulps)
        if len(self._equality) == 1:
            return worst
        apart = sum(one.apart for _, one in self._equality)
        if not worst.worst:  # all blocks are equal to the last bit
            return StepEquality(0.0, apart, after.numel())
        flat = torch.tensor(start + worst.worst[0])
        place = tuple(int(i) for i in torch.unravel_index(flat, after.shape))
        return replace(worst, apart=apart, count=after.numel(), worst=place)
