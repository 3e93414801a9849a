"""A last batch that is much smaller than the others and makes a step of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._batch_sizes import BEFORE, BatchSizes
from xent.inspection.examination._finding import Found, NotChecked

_USUAL = 8  # rows that a usual batch has at least


class _RaggedLastBatch(Watcher):
    """The session counts the rows of every training call; they are judged when the run is over."""

    def at_end(self) -> Iterator[Found]:
        lines = list(self.run.batches.values())
        if not any(sizes.calls > BEFORE for sizes in lines):
            raise NotChecked("no line computed more than two losses to train on")
        for sizes in lines:
            trained = sizes.run_length or self.run.num_backwards > sizes.num_backwards
            if sizes.num_small and not sizes.irregular and sizes.usual >= _USUAL and trained:
                yield _found(sizes)


def _found(sizes: BatchSizes) -> Found:
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
