"""A last batch that is much smaller than the others and makes a step of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

_SMALL = 4  # times fewer rows than usual
_USUAL = 8  # rows that a usual batch has at least
_BEFORE = 2  # usual batches before a small one


@dataclass
class _Sizes:
    """The batches of one line: all of one size but for single small ones, or irregular."""

    site: CallSite
    usual: int
    run_length: int = 0
    calls: int = 0
    small: int = 0
    num_small: int = 0
    irregular: bool = False
    at: tuple[int, int] = (-1, -1)

    def add(self, rows: int, at: tuple[int, int]) -> None:
        """One more call, after so many backwards and steps."""
        self.calls += 1
        if self.calls > 1 and not _has_advanced(self.at, at):
            self.irregular = True  # several losses for one step, or none
        self.at = at
        if rows == self.usual:
            self.run_length += 1
        elif rows * _SMALL <= self.usual and self.run_length >= _BEFORE and self.small in (0, rows):
            self.small, self.num_small, self.run_length = rows, self.num_small + 1, 0
        else:
            self.irregular = True


def _has_advanced(before: tuple[int, int], now: tuple[int, int]) -> bool:
    backwards, steps = now[0] - before[0], now[1] - before[1]
    return backwards > 0 and (steps > 0 or now[1] == 0)  # 0 steps: parameters are moved by hand


class _RaggedLastBatch(Watcher):
    """Counts the rows of every training call."""

    every_call = True

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._sizes: dict[CallSite, _Sizes] = {}

    def at_loss_call(self, call: LossCall) -> None:
        if call.site is None or call.output is None or not call.output.requires_grad or call.reduction != "mean":
            return
        input = call.arguments.get("input")
        if not isinstance(input, Tensor) or input.ndim < 2 or is_functorch_wrapped_tensor(input):
            return
        rows = input.shape[0]
        sizes = self._sizes.get(call.site)
        if sizes is None:
            sizes = self._sizes[call.site] = _Sizes(call.site, rows)
        sizes.add(rows, (self.run.num_backwards, self.run.num_steps))

    def at_end(self) -> Iterator[Found]:
        if not any(sizes.calls > _BEFORE for sizes in self._sizes.values()):
            raise NotChecked("no line computed more than two losses to train on")
        for sizes in self._sizes.values():
            trained = sizes.run_length or self.run.num_backwards > sizes.at[0]
            if sizes.num_small and not sizes.irregular and sizes.usual >= _USUAL and trained:
                yield _found(sizes)


def _found(sizes: _Sizes) -> Found:
    factor = sizes.usual / sizes.small
    rows = "row" if sizes.small == 1 else "rows"
    return Found(
        message=f"the last batch has {sizes.small} {rows}, the others {sizes.usual}, and its mean makes a whole step "
        f"({sizes.num_small} of {sizes.calls}): each of its rows moves the parameters {factor:.3g} times as far as the "
        f"others, with {math.sqrt(factor):.2g} times the noise.",
        fix="DataLoader(..., drop_last=True), or a batch size that leaves a larger rest",
        proof=f"row counts of all {sizes.calls} training calls of this line",
        values={"rows": sizes.small, "usual": sizes.usual, "batches": sizes.calls},
        site=sizes.site,
    )


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(97, 8), torch.randint(3, (97,))
for start in range(0, {}, 32):
    optimizer.zero_grad()
    F.cross_entropy(model(x[start : start + 32]), y[start : start + 32]).backward()
    optimizer.step()
"""

RULES = (
    Rule(
        slug="ragged-last-batch",
        severity="info",
        certainty="signature",
        title="the last batch is so small that its step moves far more than the others",
        needs=("several training calls of one line",),
        watcher=_RaggedLastBatch,
        example=_HEAD.format("97"),
        corrected=_HEAD.format("96"),
    ),
)
