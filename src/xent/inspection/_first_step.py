"""Adam's first step: m̂ = g and √v̂ = |g|, so every entry moves by −lr·g / (|g| + ε) = −lr·sign(g), but for small |g|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._optimizer_formulas import Formula, Taken
from xent.inspection._parameter_account import ParameterAccount
from xent.report import Column, ResultTable

NEAR = 99.0  # |g| below 99 ε moves by less than 99 % of lr
_COLUMNS = (
    Column("parameter", "parameter", "name"),
    Column("place", "entry", "name"),
    Column("gradient", "gradient"),
    Column("in_eps", "|g| ÷ ε"),
    Column("of_lr", "moved ÷ lr", "percent"),
)


@dataclass(frozen=True)
class FirstStep:
    """The exceptions to −lr·sign(g).

    Attributes:
        lr: the learning rate; None where groups differ.
        count: entries that took their first step.
        still: entries whose gradient is 0: they stay where they are.
        near: entries with 0 < |g| < 99 ε: they move by less than 99 % of lr.
        records: the nearest to 0 of those, at most 50.
    """

    lr: float | None
    count: int
    still: int
    near: int
    records: tuple[dict, ...]

    def entries(self, n: int = 10) -> ResultTable:
        """The entries that moved less, the smallest |g| first; 50 at most are kept."""
        shown = self.records[:n]
        title = f"the {len(shown):,} smallest of {self.near:,} entries with 0 < |g| < {NEAR:.0f} ε"
        return ResultTable(shown, _COLUMNS, title)


def first_step(accounts: Sequence[ParameterAccount]) -> FirstStep | None:
    """What Adam's first step did, over all parameters that took it; None where none did."""
    count = still = near = 0
    records: list[dict] = []
    rates: set[float] = set()
    for account in accounts:
        taken = account.record.taken
        if account.unknown or taken is None or not _is_first_of_adam(account, taken):
            continue
        rates.add(float(taken.options["lr"]))
        g, eps = _direction(taken), float(taken.options["eps"])
        small = (g != 0) & (g.abs() < NEAR * eps)
        count, still, near = count + g.numel(), still + int((g == 0).sum()), near + int(small.sum())
        records += _records(account, g, small, eps)
    if not count:
        return None
    records.sort(key=lambda record: record["in_eps"])
    return FirstStep(rates.pop() if len(rates) == 1 else None, count, still, near, tuple(records[:50]))


def _is_first_of_adam(account: ParameterAccount, taken: Taken) -> bool:
    formula = account.optimizer.formula if account.optimizer else ""
    return isinstance(formula, Formula) and formula.name in ("Adam", "AdamW") and taken.steps_before == 0


@torch.no_grad()
def _direction(taken: Taken) -> Tensor:
    """The gradient that the moments are made of: negated and with its weight decay."""
    g = taken.gradient.double()
    g = -g if taken.options.get("maximize") else g
    decay = float(taken.options["weight_decay"])
    return g + decay * taken.value.double() if decay and not taken.options.get("decoupled_weight_decay") else g


def _records(account: ParameterAccount, g: Tensor, small: Tensor, eps: float) -> list[dict]:
    places = small.nonzero()
    if not len(places):
        return []
    near = g[small]
    sizes = near.abs()
    order = sizes.argsort()[:50]
    return [
        {
            "parameter": account.name, "place": str(tuple(places[i].tolist())), "gradient": float(near[i]),
            "in_eps": float(sizes[i]) / eps, "of_lr": float(sizes[i]) / (float(sizes[i]) + eps),
        }
        for i in order.tolist()
    ]  # fmt: skip
