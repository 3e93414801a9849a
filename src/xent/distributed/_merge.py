"""The states of all ranks become the values of each row: the log-sum-exp states are merged in the order of the ranks.

    D_r = lse_r − max_r lse_r          L = ln Σ_r exp(D_r)          lse = max_r lse_r + L
    loss = Σ_r spread_r + mass_r (L − D_r)
    entropy = Σ_r exp(D_r − L) · ((L − D_r) + entropy_r)

Every rank merges the same bytes in the same order, in float64: all get the same numbers to the last bit. The gradient
of another rank's state is that rank's business; only this one's carries a graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xent.distributed._first_order import first_order
from xent.distributed._shard import ShardState


@dataclass(eq=False)
class MergedRows:
    """Values of each counted row, (M,), float64.

    Attributes:
        loss: −Σ_c t_c ln p_c.
        lse: log-sum-exp over all classes.
        weight: w[target], or 1.
        entropy: of the prediction, or None.
        prediction: the most likely class, or None.
        true_class: the most likely class of a dense target, or None.
    """

    loss: Tensor
    lse: Tensor
    weight: Tensor
    entropy: Tensor | None = None
    prediction: Tensor | None = None
    true_class: Tensor | None = None


def merged(states: ShardState, own: ShardState, rank: int, is_hard: bool) -> MergedRows:
    """Values of every row from the states (size, M) as they were sent, with the graph of this rank's, (M,)."""
    values = _values(states, is_hard)
    parts = (own.rest, own.spread, own.mass, own.weight, own.entropy)
    if not any(part is not None and part.requires_grad for part in parts):
        return values[0]
    rows, slopes = values[0], _slopes(states, *values, own, rank)
    loss, lse, weight, entropy = _Merged.apply(*parts, rows, slopes)
    return replace(rows, loss=loss, lse=lse, weight=weight, entropy=None if rows.entropy is None else entropy)


def _values(states: ShardState, is_hard: bool) -> tuple[MergedRows, Tensor]:
    """The values, and L − D of every rank."""
    none = states.reference == -torch.inf
    distance, top, first = _distances(states, none)
    is_first = torch.arange(len(none), device=none.device).unsqueeze(1) == first
    others = (distance.exp() - is_first.double()).sum(0)  # exp(0) − 1 is 0: log1p keeps the digits of a small sum
    spread_out = torch.log1p(others)
    gap = spread_out - distance  # ∞ where the rank has no probability; NaN where none has
    loss = states.spread + states.mass * gap.masked_fill(states.mass == 0, 0)
    rows = MergedRows(
        loss=torch.where(states.mass == 0, states.spread, loss).sum(0),
        lse=top + spread_out,
        weight=states.weight.sum(0) if is_hard else torch.ones_like(spread_out),
    )
    if states.entropy is not None:
        share = (-gap).exp().masked_fill(none, 0)
        rows.entropy = (share * (gap.masked_fill(none, 0) + states.entropy)).sum(0)
    if states.best is not None and states.prediction is not None:
        rows.prediction = _at_first_largest(states.best, states.prediction)
    if states.true_value is not None and states.true_index is not None:
        rows.true_class = _at_first_largest(states.true_value, states.true_index)
    return rows, gap


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Derivatives of a row's values with respect to this rank's state, (M,) each.

    Attributes:
        share: of lse by lse_r, and of the entropy by entropy_r: the probability of the rank's classes.
        mass: Σ_r mass_r; share · mass is that of the loss by lse_r.
        gap: of the loss by mass_r.
        bend: of the entropy by lse_r.
    """

    share: Tensor
    mass: Tensor
    gap: Tensor | None
    bend: Tensor | None


def _slopes(states: ShardState, rows: MergedRows, gap: Tensor, own: ShardState, rank: int) -> _Slopes:
    mine = gap[rank]
    share = (-mine).exp()  # NaN where no class of any rank has a probability
    of_mass, bend = None, None
    if own.mass.requires_grad:
        of_mass = mine.masked_fill((states.mass[rank] == 0) & (mine == torch.inf), 0)
    if states.entropy is not None and rows.entropy is not None:
        bend = share * (mine.masked_fill(mine == torch.inf, 0) + states.entropy[rank] - rows.entropy)
    return _Slopes(share, states.mass.sum(0), of_mass, bend)


class _Merged(torch.autograd.Function):
    """The values, with their derivatives by this rank's state; a graph of the merge itself would hold some thirty
    numbers for each row until the gradient of the logits stands.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *_, rows, slopes = inputs
        ctx.save_for_backward(slopes.share, slopes.mass, slopes.gap, slopes.bend)
        ctx.set_materialize_grads(False)
        if not ctx.needs_input_grad[3]:
            ctx.mark_non_differentiable(rows.weight)
        return rows.loss, rows.lse, rows.weight, torch.zeros(()) if rows.entropy is None else rows.entropy

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_loss, of_lse, of_weight, of_entropy = gradients
        slopes = _Slopes(*ctx.saved_tensors)
        bent, of_own_entropy = None, None
        if of_entropy is not None and slopes.bend is not None:
            bent, of_own_entropy = of_entropy * slopes.bend, of_entropy * slopes.share
        by_loss = None if of_loss is None else of_loss * slopes.mass * slopes.share
        by_lse = None if of_lse is None else of_lse * slopes.share
        by_mass = None if of_loss is None or slopes.gap is None else of_loss * slopes.gap
        rest = [part for part in (by_loss, by_lse, bent) if part is not None]
        return sum(rest[1:], rest[0]) if rest else None, of_loss, by_mass, of_weight, of_own_entropy, None, None


def _distances(states: ShardState, none: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D (size, M), the largest lse_r (M,) and whose it is; (ref_r − ref_*) + (rest_r − rest_*): an offset cancels."""
    which = _first_largest(states.reference + states.rest)
    where = which.unsqueeze(0)
    reference, rest = states.reference.gather(0, where), states.rest.gather(0, where)
    reference = reference.masked_fill(reference == -torch.inf, 0)
    distance = (states.reference - reference) + (states.rest - rest)
    return distance.masked_fill(none, -torch.inf), (reference + rest).squeeze(0), which


def _first_largest(values: Tensor) -> Tensor:
    """For each column the first row with its largest value, NaN being larger than all."""
    order = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    which = torch.zeros(values.shape[1], dtype=torch.int64, device=values.device)
    best = order[0]
    for row in range(1, len(order)):
        better = order[row] > best
        which, best = which.masked_fill(better, row), torch.where(better, order[row], best)
    return which


def _at_first_largest(values: Tensor, indices: Tensor) -> Tensor:
    which = _first_largest(values)
    return indices.gather(0, which.unsqueeze(0)).squeeze(0)
