"""The state of a shard in plain differentiable torch, on any device: the definition.

z       = softcap · tanh(logit_scale · x / softcap)
lse_r   = m + ln Σ_c exp(z_c − m)                               m = max_c z_c, over the classes of this rank
spread  = Σ_c t_c (lse_r − z_c)      mass = Σ_c t_c             t = w · ((1 − ε) q + ε / V)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xent.backends.reference.cross_entropy import class_weight_at, scaled_logits
from xent.distributed._shard import Shard, ShardState


def state_of(shard: Shard) -> ShardState:
    """The state of every row."""
    if shard.width == 0:
        return empty_state(shard)
    if (
        shard.terms.weight is not None
    ):  # widened once: its gradient, from several places, is summed before it is rounded
        shard = replace(shard, terms=replace(shard.terms, weight=shard.class_weight()))
    counted = shard.counted()
    logits = shard.logits if counted is None else shard.logits.masked_fill(~counted.unsqueeze(-1), 0)
    z = scaled_logits(logits, shard.terms, shard.dtype)
    best, prediction = z.detach().max(-1)
    masked = best == -torch.inf
    anchor = best.masked_fill(masked, 0)
    sums = (z - anchor.unsqueeze(-1)).exp().sum(-1)
    rest = sums.masked_fill(masked, 1).log()
    surprisal = (anchor.unsqueeze(-1) - z) + rest.detach().unsqueeze(-1)
    spread, mass, weight = target_parts(shard, surprisal)
    state = ShardState(best.double(), rest.double(), spread.double(), mass.double(), weight.double())
    if shard.with_stats:
        log_p = (z - anchor.unsqueeze(-1)) - rest.unsqueeze(-1)
        entropy = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)
        state.entropy = entropy.masked_fill(masked, 0).double()
        state.best, state.prediction = best.double(), prediction + shard.start
        add_true_class(shard, state)
    return state


def target_parts(shard: Shard, surprisal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spread, mass and weight from lse_r − z (*rows, V_r)."""
    class_weight, smoothing = shard.class_weight(), shard.terms.label_smoothing
    if shard.is_dense:
        return _dense_parts(shard, surprisal, class_weight)
    owned, column, q = shard.entries()
    w = torch.ones_like(q) if class_weight is None else class_weight_at(class_weight, column)
    t = ((1 - smoothing) * q * w).masked_fill(~owned, 0)
    picked = surprisal.gather(-1, column)
    spread = (t * picked.masked_fill((t == 0) & (picked == torch.inf) | ~owned, 0)).sum(-1)
    mass = t.double().sum(-1)
    weight = w.masked_fill(~owned, 0).sum(-1) if shard.is_hard else torch.ones_like(spread)
    if smoothing:
        weighted = surprisal if class_weight is None else surprisal * class_weight
        spread = spread + smoothing / shard.total * weighted.sum(-1)
        mass = mass + shard.smoothing_mass()
    return spread, mass, weight


def _dense_parts(shard: Shard, surprisal: Tensor, class_weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    t, smoothing = shard.target.to(surprisal.dtype), shard.terms.label_smoothing
    if smoothing:
        t = (1 - smoothing) * t + smoothing / shard.total
    terms = t * surprisal.masked_fill((t == 0) & (surprisal == torch.inf), 0)
    if class_weight is not None:
        t, terms = t * class_weight, terms * class_weight
    spread = terms.sum(-1)
    return spread, t.sum(-1, dtype=torch.float64), torch.ones_like(spread)


def add_true_class(shard: Shard, state: ShardState) -> None:
    """The most likely class of dense targets among the rank's."""
    if shard.is_dense:
        value, index = shard.target.detach().max(-1)
        state.true_value, state.true_index = value.double(), index + shard.start


def empty_state(shard: Shard) -> ShardState:
    """The state of a rank without classes."""

    def rows(value: float) -> Tensor:
        return torch.full(shard.row_shape, value, dtype=torch.float64, device=shard.logits.device)

    zero = rows(0)
    weight = zero if shard.is_hard else rows(1)
    graph = shard.logits.sum(-1).double()  # 0, of no numbers: `backward` works on every rank
    if shard.terms.weight is not None:
        graph = graph + shard.terms.weight.sum().double()
    if shard.is_dense:
        graph = graph + shard.target.sum(-1).double()
    state = ShardState(rows(-torch.inf), graph, zero, zero, weight)
    if shard.with_stats:
        nothing = torch.full(shard.row_shape, -1, device=shard.logits.device)
        state.entropy, state.best, state.prediction = zero, rows(-torch.inf), nothing
        if shard.is_dense:
            state.true_value, state.true_index = rows(-torch.inf), nothing
    return state
