"""With what weight the rows of each loss enter a step: what flows into the loss's node during backward()."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xent.inspection.checks._rule import Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, LossCall
from xent.inspection.examination._finding import NotChecked
from xent.inspection.examination._run import Run

_SAME = 1e-3  # relative: weights in half precision have three digits
DIFFERENT = 1.05  # a row that counts 5 % more than another is worth a word
_MOST_LOSSES = 8  # of one backward


@dataclass(frozen=True)
class Share:
    """One loss in one backward.

    Attributes:
        key: equal for losses that may be compared: the line of backward(), the place in it, the classes, the leaves.
        count: rows that count (with class weights: the sum of their weights).
        total: Σ of the weights with which they enter the gradient: 1 for a mean, their number for a sum.
        mean: the mean of the loss over the counted rows; NaN if it is not known.
    """

    key: tuple[Any, ...]
    count: float
    total: float
    mean: float
    site: CallSite | None


def same(numbers: list[float]) -> bool:
    """Whether they are equal but for rounding."""
    return max(numbers) - min(numbers) <= _SAME * max(map(abs, numbers))


class Shares(Watcher):
    """Calls `add` with each share of the sampled backwards. Hooks stand on the losses' nodes during backward() only."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._pending: list[Callable[[], Share | None]] = []
        self._handles: list[Any] = []
        self.reason = "no loss was found behind a backward()"

    def add(self, share: Share) -> None:
        """A loss entered the gradient."""

    def wants(self, backward: BackwardCall) -> bool:
        """Whether the shares of a backward matter."""
        return backward.sampled and not backward.is_grad and backward.inputs is None and not backward.create_graph

    def at_backward(self, backward: BackwardCall) -> None:
        self._forget()
        if not self.wants(backward):
            return
        leaves = frozenset(map(id, backward.parameters))
        for place, call in enumerate(backward.loss_calls[:_MOST_LOSSES]):
            key = (backward.site, place, call.name, call.num_classes, leaves, call.reduction)
            try:
                self._watch(call, key, backward)
            except NotChecked as reason:
                self.reason = str(reason)

    def after_backward(self, backward: BackwardCall) -> None:
        pending = self._pending
        self._forget()
        for make in pending:
            share = make()
            if share is not None:
                self.add(share)

    def _forget(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._pending, self._handles = [], []

    def _watch(self, call: LossCall, key: tuple[Any, ...], backward: BackwardCall) -> None:
        table = call.table
        if table is None or (table.node is None and table.term is None):
            raise NotChecked("the loss has no node that can be watched")
        site = backward.site
        if table.node is None:
            share = _of_term(call, key, site)
            self._pending.append(lambda: share)
            return
        count, mean, counted = _counted(call), _mean_of(call), _mask(call)
        seen: list[Tensor] = []

        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            if gradients and gradients[0] is not None:
                seen.append(gradients[0].detach())

        self._handles.append(table.node.node.register_prehook(hook))
        self._pending.append(lambda: _share(seen, counted, Share(key, count, math.nan, mean, site)))


def _share(seen: list[Tensor], counted: Tensor | None, empty: Share) -> Share | None:
    """From what flowed into the node: a scalar for a mean or a sum, else one number for each row."""
    if len(seen) != 1 or not empty.count:
        return None
    flow = seen.pop().double()
    if flow.numel() == 1:
        total = float(flow) * (empty.count if empty.key[-1] == "sum" else 1)
    else:
        rows = flow.reshape(-1)
        if counted is not None:
            if counted.numel() != rows.numel():
                return None
            rows = rows[counted.reshape(-1)]
        if rows.numel() == 0 or not same([float(rows.min()), float(rows.max())]):
            return None  # rows have weights of their own
        total = float(rows.sum())
    return Share(empty.key, empty.count, total, empty.mean, empty.site) if math.isfinite(total) and total else None


def _counted(call: LossCall) -> float:
    if call.is_binary or not call.has_class_indices:
        return float(call.target.numel())
    weight = call.option("weight")
    if isinstance(weight, Tensor) and call.reduction == "mean":
        return float(call.values_of(weight)[call.counted].sum())
    return float(call.counted.numel())


def _mask(call: LossCall) -> Tensor | None:
    return None if call.is_binary or not call.has_class_indices else call.values_of(call.target) != call.ignore_index


def _mean_of(call: LossCall) -> float:
    """Mean of −ln p over the counted rows."""
    table = call.table
    if table is None or call.is_binary or not call.has_class_indices or call.option("weight") is not None:
        return math.nan
    log_probs = table.log_probs if table.log_probs is not None else call.arguments.get("input")
    if log_probs is None or call.name not in ("cross_entropy", "nll_loss") or call.origin == "xent":
        return math.nan
    last = call.values_of(log_probs).movedim(table.class_dim, -1)
    target = call.values_of(call.target)
    if last.shape[:-1] != target.shape:
        return math.nan
    counted = target != call.ignore_index
    picked = last.gather(-1, target.where(counted, target.new_zeros(())).unsqueeze(-1)).squeeze(-1)
    return -float(picked.double()[counted].mean()) if bool(counted.any()) else math.nan


def _of_term(call: LossCall, key: tuple[Any, ...], site: CallSite | None) -> Share | None:
    """A loss by hand: the factor of each row is read from the graph."""
    term = call.table.term if call.table else None
    if term is None:
        return None
    factors = term.upstream[term.counted].double()
    if not factors.numel() or not same([float(factors.min()), float(factors.max())]):
        return None
    mean = float(term.surprisal[term.counted].double().mean())
    return Share(key, float(factors.numel()), float(factors.sum()), mean, site)


def unequal(shares: list[Share]) -> bool:
    """Whether each has the same weight as a whole though their rows are not equally many: means of means."""
    counts = [share.count for share in shares]
    return same([share.total for share in shares]) and max(counts) > DIFFERENT * min(counts)


def both_means(shares: list[Share]) -> tuple[float, float]:
    """(the mean of the means, the mean over all rows); NaN where a loss is not known."""
    rows = sum(share.count for share in shares)
    return sum(share.mean for share in shares) / len(shares), sum(share.mean * share.count for share in shares) / rows


def groups(shares: list[Share]) -> Iterator[list[Share]]:
    """Those that may be compared, together."""
    for key in dict.fromkeys(share.key for share in shares):
        group = [share for share in shares if share.key == key]
        if len(group) > 1:
            yield group


def is_clear(leaves: list[Tensor]) -> bool:
    """Whether gradients start anew: none is there, or only zeros."""
    held = next((leaf.grad for leaf in leaves if leaf.grad is not None), None)
    if held is None:
        return True
    return held.layout == torch.strided and not bool(held.reshape(-1)[:4096].any())
