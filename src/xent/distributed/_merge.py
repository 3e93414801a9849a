"""The states of all ranks become the values of each row: the log-sum-exp states are merged in the order of the ranks.

    D_r = lse_r − max_r lse_r          L = ln Σ_r exp(D_r)          lse = max_r lse_r + L
    loss = Σ_r spread_r + mass_r (L − D_r)
    entropy = Σ_r exp(D_r − L) · ((L − D_r) + entropy_r)

Every rank merges the same bytes in the same order, in float64: all get the same numbers to the last bit. The gradient
of another rank's state is that rank's business; only this one's carries a graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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


def with_own_graph(states: ShardState, own: ShardState, rank: int) -> ShardState:
    """The states of all ranks as they were sent, this rank's with its graph: the same numbers on every rank."""

    def joined(name: str, value: Tensor | None) -> Tensor | None:
        mine = getattr(own, name)
        if value is None or mine is None or not mine.requires_grad:
            return value
        kept = _AsSent.apply(mine, value[rank])
        return torch.cat([value[:rank], kept.unsqueeze(0), value[rank + 1 :]])

    whole: dict[str, Any] = {name: joined(name, value) for name, value in vars(states).items()}
    return ShardState(**whole)


class _AsSent(torch.autograd.Function):
    """The numbers that were sent, with the gradient of those that were made; infinite ones too.

    A second derivative would need the states of the other ranks, and raises.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        return inputs[1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0], None


def merged(states: ShardState, is_hard: bool) -> MergedRows:
    """Values of every row from the states (size, M)."""
    none = states.reference == -torch.inf
    distance, top = _distances(states, none)
    first = _first_largest(states.reference + states.rest.detach())
    is_first = torch.arange(len(none), device=none.device).unsqueeze(1) == first
    others = (distance.exp() - is_first.double()).sum(0)  # exp(0) − 1 is 0: log1p keeps the digits of a small sum
    spread_out = torch.log1p(others)
    gap = spread_out - distance.detach()  # ∞ where the rank has no probability; NaN where none has
    loss = states.spread + states.mass * gap.masked_fill(states.mass == 0, 0)
    rows = MergedRows(
        loss=torch.where(states.mass == 0, states.spread, loss).sum(0),
        lse=top + spread_out,
        weight=states.weight.sum(0) if is_hard else torch.ones_like(spread_out),
    )
    if states.entropy is not None:
        gap = (spread_out - distance).masked_fill(none, 0)
        share = torch.where(none, 0.0, (distance.masked_fill(none, 0) - spread_out).exp())
        rows.entropy = (share * (gap + states.entropy)).sum(0)
    if states.best is not None and states.prediction is not None:
        rows.prediction = _at_first_largest(states.best, states.prediction)
    if states.true_value is not None and states.true_index is not None:
        rows.true_class = _at_first_largest(states.true_value, states.true_index)
    return rows


def _distances(states: ShardState, none: Tensor) -> tuple[Tensor, Tensor]:
    """D (size, M) and the largest lse_r (M,); (ref_r − ref_*) + (rest_r − rest_*), so that an offset cancels."""
    rest = states.rest.detach()
    which = _first_largest(states.reference + rest)
    where = which.unsqueeze(0)
    reference = states.reference.gather(0, where)
    reference = reference.masked_fill(reference == -torch.inf, 0)
    distance = (states.reference - reference) + (states.rest - rest.gather(0, where))
    return distance.masked_fill(none, -torch.inf), (reference + rest.gather(0, where)).squeeze(0)


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
