"""Means of means: batches of different size that enter one step with the same weight."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch
import torch.distributed
from torch import Tensor
from torch.optim import Optimizer

from xent.inspection.checks._rule import Rule
from xent.inspection.checks._shares import Share, Shares, both_means, groups, is_clear, same, unequal
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

OPT_IN = "XENT_DOCTOR_ACROSS_RANKS"
_GATHERED_AT = 2  # the step before which the ranks tell each other their counts


class _MeanOfMeans(Shares):
    """Two or more backwards of one line between two steps, gradients not cleared in between."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._shares: list[Share] = []
        self._step = -1
        self._compared = False

    def at_wake(self) -> None:
        self._shares = []

    def at_backward(self, backward: BackwardCall) -> None:
        if self.wants(backward) and (self._step != self.run.num_steps or is_clear(backward.parameters)):
            self._shares, self._step = [], self.run.num_steps
        super().at_backward(backward)

    def add(self, share: Share) -> None:
        self._shares.append(share)

    def at_step(self, step: OptimizerStep) -> Iterator[Found]:
        shares, self._shares = self._shares, []
        for group in groups(shares):
            self._compared = True
            if unequal(group):
                yield _found(group)

    def at_end(self) -> None:
        if not self._compared:
            raise NotChecked("no step was made from two backwards of one line")


def _found(group: list[Share]) -> Found:
    counts = [share.count for share in group]
    optimised, exact = both_means(group)
    shown = ", ".join(f"{count:g}" for count in counts[:6]) + (", …" if len(counts) > 6 else "")
    means = "" if math.isnan(exact) else (
        f" Optimised was {optimised:.4f}, the mean of {len(group)} means; the mean over all {sum(counts):g} rows is "
        f"{exact:.4f}."
    )  # fmt: skip
    return Found(
        message=f"the means of {len(group)} batches with {shown} counted rows entered one step with equal weight: a "
        f"row of the smallest counted {max(counts) / min(counts):.2f} times as much as one of the largest.{means}",
        fix="divide sums by the rows of the whole step: reduction='sum' and / total (xent: normalizer=total), or "
        "multiply each mean by its rows / total",
        proof="the gradient that flowed into each loss: the same for every mean, so that it differs by row",
        values={"batches": len(group), "fewest": min(counts), "most": max(counts)}
        | ({} if math.isnan(exact) else {"optimised": optimised, "mean": exact}),
        site=group[0].site,
    )


class _AcrossRanks(Shares):
    """The same across data-parallel ranks. They tell each other their counts once, where it was asked for."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._asked = os.environ.get(OPT_IN, "") not in ("", "0")
        self._shares: list[Share] = []
        self._rows: list[float] = []
        self._optimizer: int | None = None
        self._site: CallSite | None = None
        self._why = "no second step was made"

    def wants(self, backward: BackwardCall) -> bool:
        return self._asked and self._optimizer != -1 and super().wants(backward)

    def add(self, share: Share) -> None:
        self._shares.append(share)
        self._site = share.site

    def at_step(self, step: OptimizerStep) -> Iterator[Found] | None:
        if not self._asked or self._optimizer == -1 or not _world() > 1:
            return None
        if self._optimizer is None:
            self._optimizer = id(step.optimizer)
        if self._optimizer != id(step.optimizer):
            return None
        share = self._shares[0] if len(self._shares) == 1 else Share((), math.nan, math.nan, math.nan, None)
        self._shares = []
        self._rows += [share.count, share.total, share.mean, _sum_of_gradients(step.optimizer)]
        if step.number < _GATHERED_AT:
            return None
        self._optimizer = -1
        return self._judged(_gathered(self._rows, step.parameters))

    def _judged(self, ranks: list[list[float]]) -> Iterator[Found]:
        """Every rank's numbers, four for each step."""
        self._why = "ranks made several backwards for one step, or their losses could not be read"
        for place in range(0, len(ranks[0]), 4):
            steps = [rank[place : place + 4] for rank in ranks]
            if any(math.isnan(row[0]) or math.isnan(row[1]) or math.isnan(row[3]) for row in steps):
                continue
            self._why = ""
            shares = [Share((), count, total, mean, None) for count, total, mean, _ in steps]
            if same([row[3] for row in steps]) and unequal(shares):
                yield self._found(shares)
                return

    def _found(self, shares: list[Share]) -> Found:
        counts = [share.count for share in shares]
        optimised, exact = both_means(shares)
        means = "" if math.isnan(exact) else f" Optimised was {optimised:.4f}; the mean over all rows is {exact:.4f}."
        return Found(
            message=f"{len(shares)} ranks averaged gradients of means over {', '.join(f'{c:g}' for c in counts[:8])}"
            f" counted rows: a row on the smallest counted {max(counts) / min(counts):.2f} times as much as one on the "
            f"largest.{means}",
            fix="all-reduce the number of counted rows, then reduction='sum' * world_size / that number (xent: "
            "distributed.global_row_count and normalizer=)",
            proof="one all-gather: counts differ; the weights of the means, and the gradients that result, are equal",
            values={"ranks": len(shares), "fewest": min(counts), "most": max(counts)},
            site=self._site,
        )

    def at_end(self) -> None:
        if not self._asked:
            raise NotChecked(f"it needs an exchange between the ranks: ask for it with {OPT_IN}=1")
        if not self._rows:
            raise NotChecked("the program ran as one rank")
        if self._why:
            raise NotChecked(self._why)


def _world() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _sum_of_gradients(optimizer: Optimizer) -> float:
    """One number that is equal on all ranks if they share the gradients of the first parameters."""
    held = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    chosen = [gradient for gradient in held if gradient.layout == torch.strided][:4]
    return float(sum(gradient.double().abs().sum() for gradient in chosen)) if chosen else math.nan


def _gathered(rows: list[float], parameters: list[Tensor]) -> list[list[float]]:
    on_device = "nccl" in torch.distributed.get_backend()
    mine = torch.tensor(rows, dtype=torch.float64, device=parameters[0].device if on_device else "cpu")
    everyone = [torch.empty_like(mine) for _ in range(_world())]
    torch.distributed.all_gather(everyone, mine)
    return [each.tolist() for each in everyone]


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    for rows in (30, 10):
        x, y = torch.randn(rows, 8), torch.randint(3, (rows,))
        loss = {}
        loss.backward()
    optimizer.step()
"""
_RANKS = """
import torch
import torch.distributed as dist
import torch.nn.functional as F

# on every rank, with a number of rows of its own; XENT_DOCTOR_ACROSS_RANKS=1
x, y = torch.randn(30, 8), torch.randint(3, (30,))
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{}
for parameter in model.parameters():
    if dist.is_initialized():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
optimizer.step()
"""

RULES = (
    Rule(
        slug="mean-of-means",
        severity="warning",
        certainty="proof",
        title="batches of different size enter a step with the same weight",
        needs=("a step made from two backwards",),
        watcher=_MeanOfMeans,
        example=_HEAD.format("F.cross_entropy(model(x), y) / 2"),
        corrected=_HEAD.format("F.cross_entropy(model(x), y, reduction='sum') / 40"),
    ),
    Rule(
        slug="mean-of-means-across-ranks",
        severity="warning",
        certainty="proof",
        title="ranks with different numbers of rows average their means",
        needs=("torch.distributed", f"{OPT_IN}=1: it makes one all-gather"),
        watcher=_AcrossRanks,
        example=_RANKS.format("F.cross_entropy(model(x), y).backward()"),
        corrected=_RANKS.format(
            "rows = 40  # of all ranks\n(F.cross_entropy(model(x), y, reduction='sum') / rows).backward()"
        ),
    ),
)
