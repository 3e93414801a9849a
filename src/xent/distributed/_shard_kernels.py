"""The state of a shard and its gradient on the native row kernels: one read forward, one read and one write backward.

    G_c = (g_rest p_c − g_spread t_c − g_H p_c (ln p_c + H)) · dz/dx          p = softmax over the classes of this rank

The dense part is the kernel's; the entries of index targets are set in float64 after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xent.backends.native.machine import empty_gradient, streams
from xent.backends.native.target_entries import RowGradients, TargetEntries, entry_gradient, scaled, target_entries
from xent.distributed._first_order import first_order
from xent.distributed._shard import Shard, ShardState
from xent.distributed._shard_formula import add_true_class, empty_state


@dataclass(eq=False)
class Saved:
    """What the gradient needs beside the shard, float64, (*rows); of float64 logits also what float64 rounds off."""

    lse: Tensor
    lse_low: Tensor | None
    entropy: Tensor | None


@dataclass(eq=False)
class StateGradients:
    """Gradients of the differentiable parts of a state, (*rows)."""

    rest: Tensor | None
    spread: Tensor | None
    entropy: Tensor | None = None


def state_of(shard: Shard) -> ShardState:
    """The state of every row, differentiable once with respect to the logits."""
    if shard.width == 0:
        return empty_state(shard)
    kept: list[ShardState] = []
    rest, spread, entropy = _State.apply(shard.logits, shard, kept)
    state = kept[0]
    state.rest, state.spread = rest, spread
    if shard.with_stats:
        state.entropy = entropy
    return state


class _State(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        logits, shard, kept = inputs
        state, ctx.saved = values_of(shard)
        kept.append(state)
        ctx.save_for_backward(logits)
        ctx.shard = shard
        ctx.set_materialize_grads(False)
        entropy = torch.zeros(()) if state.entropy is None else state.entropy
        return state.rest, state.spread, entropy

    @staticmethod
    @first_order
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (logits,) = ctx.saved_tensors
        buffer = empty_gradient(logits)
        upstream = StateGradients(gradients[0], gradients[1], gradients[2] if ctx.shard.with_stats else None)
        write_gradient(ctx.shard, ctx.saved, upstream, buffer)
        return buffer, None, None


def values_of(shard: Shard) -> tuple[ShardState, Saved]:
    """The state of every row, without autograd, and what its gradient needs."""
    from xent.backends.native import _kernels

    count = shard.row_shape.numel()
    out = {name: torch.empty(count, dtype=shard.dtype) for name in ("loss", "lse")}
    out |= {name: torch.empty(count, dtype=torch.float64) for name in ("exact_lse", "lse_low")}
    if shard.with_stats:
        out["entropy"] = torch.empty(count, dtype=shard.dtype)
        out["prediction"] = torch.empty(count, dtype=torch.int64)
    if shard.is_dense:
        out["mass"] = torch.empty(count, dtype=shard.dtype)
    _kernels.cross_entropy(_kernel_problem(shard, backward=False), out, torch.get_num_threads())
    values = {name: value.view(shard.row_shape) for name, value in out.items()}
    masked = values["lse"] == -torch.inf
    lse, low = values["exact_lse"].masked_fill(masked, 0), values["lse_low"].masked_fill(masked, 0)
    spread, mass, weight, reference = _target_parts(shard, values, lse, low, masked)
    rest = ((lse - reference) + low).masked_fill(masked, 0)
    state = ShardState(reference.masked_fill(masked, -torch.inf), rest, spread, mass, weight)
    if shard.with_stats:
        state.entropy = values["entropy"].double().masked_fill(masked, 0)
        column = values["prediction"].clamp(min=0)
        state.best = scaled(shard.logits.detach().gather(-1, column.unsqueeze(-1)).double(), shard.terms)[0].squeeze(-1)
        state.prediction = column + shard.start
        add_true_class(shard, state)
    return state, Saved(lse, low if shard.dtype == torch.float64 else None, state.entropy)


def _target_parts(
    shard: Shard, values: dict[str, Tensor], lse: Tensor, low: Tensor, masked: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Spread, mass, weight, and the reference: z of the target where the rank has it, so that no digit is lost."""
    infinite_or_none = torch.where(masked, torch.inf, 0.0).double()
    if shard.is_dense:
        factor, _ = _dense_smoothing(shard)
        mass = values["mass"].double() * factor
        spread = torch.where(masked, infinite_or_none.masked_fill(mass == 0, 0), values["loss"].double() * factor)
        return spread, mass, torch.ones_like(lse), lse
    owned, column, _ = shard.entries()
    entries = _entries(shard, column)
    t = entries.mass.view(owned.shape).masked_fill(~owned, 0)
    z, _ = scaled(shard.logits.detach().gather(-1, column).double(), shard.terms)
    surprisal = torch.where(masked.unsqueeze(-1), torch.inf, (lse.unsqueeze(-1) - z) + low.unsqueeze(-1))
    spread = (t * surprisal.masked_fill((t == 0) | ~owned, 0)).sum(-1)
    mass = t.sum(-1)
    if shard.terms.label_smoothing:
        scale = shard.terms.label_smoothing * shard.width / shard.total
        spread = spread + torch.where(masked, torch.inf, values["loss"].double() * scale)
        mass = mass + shard.smoothing_mass()
    if not shard.is_hard:
        return spread, mass, torch.ones_like(lse), lse
    weight = shard.class_weight()
    own = torch.ones_like(lse) if weight is None else weight.detach().double()[column.squeeze(-1)]
    has = owned.squeeze(-1)
    finite = z.squeeze(-1).isfinite()
    return spread, mass, own.masked_fill(~has, 0), torch.where(has & finite, z.squeeze(-1), lse)


def write_gradient(shard: Shard, saved: Saved, upstream: StateGradients, buffer: Tensor) -> None:
    """dL/dlogits into a buffer, which may be the logits."""
    from xent.backends.native import _kernels

    zero = saved.lse.new_zeros(()).expand_as(saved.lse)
    rest = zero if upstream.rest is None else _only(shard, upstream.rest)
    spread = zero if upstream.spread is None else _only(shard, upstream.spread)
    entropy = None if upstream.entropy is None else _only(shard, upstream.entropy)
    smoothed = shard.terms.label_smoothing > 0
    share = shard.terms.label_smoothing * shard.width / shard.total
    g_target = spread * (_dense_smoothing(shard)[0] if shard.is_dense else share)
    low = zero if saved.lse_low is None else saved.lse_low
    row = RowGradients(spread, rest, saved.lse, low, entropy, None if entropy is None else saved.entropy)
    in_place = buffer.data_ptr() == shard.logits.data_ptr()
    at_entries = _entry_gradients(shard, row) if in_place and not shard.is_dense else None

    def flat(value: Tensor | None, dtype: torch.dtype = shard.dtype) -> Tensor | None:
        return None if value is None else value.to(dtype).reshape(-1).contiguous()

    given = _kernels.Upstream(
        flat(g_target) if shard.is_dense or smoothed else None,
        flat(rest),
        flat(entropy),
        flat(saved.lse, torch.float64),
        flat(row.saved_entropy),
        torch.zeros(saved.lse.numel(), dtype=shard.dtype) if shard.is_dense else None,
        flat(saved.lse_low, torch.float64),
    )
    _kernels.cross_entropy_gradient(
        _kernel_problem(shard, backward=True),
        given,
        buffer.detach(),
        not in_place and streams(buffer),
        torch.get_num_threads(),
    )
    if not shard.is_dense:
        where, value = at_entries or _entry_gradients(shard, row)
        buffer[where] = value.to(buffer.dtype)


def _only(shard: Shard, value: Tensor) -> Tensor:
    counted = shard.counted()
    value = value.detach().double()
    return value if counted is None else value.masked_fill(~counted, 0)


def _entries(shard: Shard, column: Tensor) -> TargetEntries:
    """The entries of the targets as if all were of this rank; the caller knows which are."""
    q = shard.probabilities
    index = column.reshape(-1, column.shape[-1])
    weight = shard.class_weight()
    weight = None if weight is None else weight.detach()
    smoothing, classes = shard.terms.label_smoothing, shard.total
    if q is None:
        return target_entries(index.squeeze(1), None, weight, classes, smoothing)
    owned, _, _ = shard.entries()
    q = q.detach().masked_fill(~owned, 0).reshape(index.shape)
    return target_entries(index, q, weight, classes, smoothing)


def _entry_gradients(shard: Shard, row: RowGradients) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where this rank has an entry of a target, and its gradient from the logits; equal entries get one value."""
    owned, column, _ = shard.entries()
    total = _entries(shard, column).total.view(column.shape)
    x = shard.logits.detach().gather(-1, column).double()
    value = entry_gradient(x, total, shard.terms, row.beside_entries(-1))
    *rows, entry = owned.nonzero(as_tuple=True)
    return (*rows, column[(*rows, entry)]), value[(*rows, entry)]


def _dense_smoothing(shard: Shard) -> tuple[float, float]:
    """A factor and an ε_r: (1 − ε) q + ε / V = factor · ((1 − ε_r) q + ε_r / V_r), so that the kernel smooths, not we.

    A smoothed table of targets would be as large as the logits.
    """
    share = shard.terms.label_smoothing * shard.width / shard.total
    factor = (1 - shard.terms.label_smoothing) + share
    return factor, share / factor


def _kernel_problem(shard: Shard, *, backward: bool) -> Any:
    """The shard without row weight, z-term and entries.

    An index target counts by its smoothing alone, 1 over the rank's classes, or none. Backward, the sum of class
    weights is given as 0: the gradient then has no p_c of its own, g_rest carries it all.
    """
    from xent.backends.native import _kernels

    terms, counted = shard.terms, shard.counted()
    weight = shard.class_weight()
    weight = None if weight is None else weight.detach().contiguous()
    target, probabilities = None, None
    if shard.is_dense:
        smoothing, probabilities = _dense_smoothing(shard)[1], shard.target.detach()
    else:
        smoothing = float(terms.label_smoothing > 0)
        target = torch.zeros(shard.row_shape.numel(), dtype=torch.int64)
        if counted is not None:
            target.masked_fill_(~counted.reshape(-1), -1)
    made = _kernels.Problem(shard.logits.detach(), target, probabilities, weight, None)
    total = float(shard.width) if weight is None else float(weight.sum(dtype=torch.float64))
    made.set_options(-1, smoothing, 0.0, terms.softcap or 0.0, terms.logit_scale, 0.0 if backward else total)
    return made
