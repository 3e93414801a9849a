"""Linear + cross-entropy, a tile of the classes at a time, for all rows.

First pass: each tile's log-sum-exp is merged into the rows' (logaddexp in float64), together with what the target and
the statistics take from the tile. Second pass: each tile's logits again, over them its gradient

    G_c = ĝ p_c − g r t_c − g_H p_c (ln p_c + H),      ĝ = g (r a + 2 weight ζ lse) + g_lse,   a = Σ_c t_c

with the dense part from the row kernel and the one entry of a hard target set in float64 after it. The tiles that the
first pass made last stay in memory and are not made again. Where the plan says so, all of them stay in the memory of
the weight's gradient: a tile where the gradient of the classes before its own will be, the first in a buffer. From the
last tile to the first, the place of each part of the gradient is free when the part is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_products import add_column_sums
from xent.backends.native.linear_rows import CountedRows, row_weights
from xent.backends.native.linear_term_gradients import TermGradients, with_terms
from xent.backends.native.linear_tile import Tile, TileTerms
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values, accumulator_dtype, empty_values
from xent.backends.native.top_classes import better


@dataclass(eq=False)
class _Merged:
    """The rows' state over the tiles so far, float64, each (M,) but for the entries."""

    lse: Tensor  # that a softmax is made of: NaN where it is +inf
    entry_logit: Tensor | None  # z of the classes that a hard or sparse target names, (M, k)
    spread: Tensor  # Σ_c t_c (lse − z_c) of the dense part of the target, up to mass · lse
    mass: Tensor  # Σ_c t_c of the dense part
    entropy: Tensor  # Σ_c p_c (lse − z_c)
    best: Tensor  # largest logit
    prediction: Tensor
    given_lse: Tensor  # logsumexp, ±inf where it is that; kept with statistics only
    top: tuple[Tensor, Tensor] | None = None  # z and indices of the best classes, (M, k)


def forward(rows: CountedRows, plan: Plan, with_stats: bool, top: int = 0) -> Values:
    """Values of every row, and its `top` most likely classes."""
    tiles = _Tiles(rows, plan, keep=0)
    return _values(tiles, _merged(rows, tiles, with_stats, top), with_stats)


def gradients(rows: CountedRows, plan: Plan, values: Values, upstream: Upstream, needs: Needs) -> Gradients:
    """Gradients from the values of an earlier pass."""
    return _gradients(rows, _Tiles(rows, plan, keep=0), values, upstream, needs, _room_for_weight(rows, needs))


def _room_for_weight(rows: CountedRows, needs: Needs) -> Tensor | None:
    weight = rows.problem.weight
    return torch.empty(weight.shape, dtype=weight.dtype) if needs.weight else None


def loss_and_gradients(rows: CountedRows, plan: Plan, upstream: Upstream, needs: Needs) -> tuple[Values, Gradients]:
    """Values, then gradients; the last tiles are not made twice."""
    of_weight = _room_for_weight(rows, needs)
    if plan.in_gradient:
        tiles = _Tiles(rows, plan, keep=0, within=of_weight)
    else:
        tiles = _Tiles(rows, plan, keep=plan.kept_tiles)
    values = _values(tiles, _merged(rows, tiles, with_stats=False), with_stats=False)
    return values, _gradients(rows, tiles, values, upstream, needs, of_weight)


class _Tiles:
    """The tiles of one problem; the logits of the last `keep` of a pass stay, or those of all `within` (C, D).

    A pass for gradients takes the tiles in an order that the plan alone decides, whether they were kept or not: sums
    of floats depend on it, and a gradient must not depend on when it is made.
    """

    def __init__(self, rows: CountedRows, plan: Plan, keep: int, within: Tensor | None = None) -> None:
        self.rows, self.step, self._within = rows, plan.step, within
        self.width = rows.problem.weight.shape[0]
        self.starts = list(range(0, self.width, self.step))
        first = len(self.starts) - min(plan.kept_tiles, len(self.starts))
        kept_first = self.starts[first:] + self.starts[:first]
        self._for_gradients = self.starts[::-1] if plan.in_gradient else kept_first
        self.hidden = rows.hidden_between(0, len(rows))
        self.terms, self.products = TileTerms(rows), plan.products
        self._buffers = [
            torch.empty((len(rows) * plan.step,), dtype=rows.problem.hidden.dtype) for _ in range(keep + 1)
        ]
        self._made: dict[int, Tile] = {}

    def for_values(self) -> Iterator[Tile]:
        """Every tile, in the order of the classes; the last ones stay."""
        for start in self.starts:
            tile = self._make(start)
            yield tile
            self._keep(tile)

    def for_gradients(self) -> Iterator[Tile]:
        """Every tile, those that the plan keeps first; from the last to the first where they lie in the gradient."""
        for start in self._for_gradients:
            yield self._made.pop(start, None) or self._make(start)

    def _keep(self, tile: Tile) -> None:
        self._made[tile.start] = tile
        while self._within is None and len(self._made) >= len(self._buffers):
            del self._made[min(self._made)]

    def _place(self, start: int) -> Tensor:
        """Where the logits of this tile will be."""
        if self._within is not None and start > 0:
            return self._within[start - self.step : start].flatten()
        in_use = {tile.buffer.data_ptr() for tile in self._made.values()}
        return next(buffer for buffer in self._buffers if buffer.data_ptr() not in in_use)

    def _make(self, start: int) -> Tile:
        buffer = self._place(start)
        stop = min(start + self.step, self.width)
        logits = buffer[: len(self.rows) * (stop - start)].view(len(self.rows), stop - start)
        weight, bias = self.rows.problem.weight.detach(), self.rows.problem.bias
        bias = None if bias is None else bias.detach()[start:stop]
        self.products.write(logits, self.hidden, weight[start:stop].t(), bias)
        return Tile(start, logits, buffer, self.terms)


def _merged(rows: CountedRows, tiles: _Tiles, with_stats: bool, top: int = 0) -> _Merged:
    def column(value: float) -> Tensor:
        return torch.full((len(rows),), value, dtype=torch.float64)

    merged = _Merged(
        column(-torch.inf),
        None,
        column(0),
        column(0),
        column(0),
        column(-torch.inf),
        column(-1).long(),
        column(-torch.inf),
    )
    for tile in tiles.for_values():
        _merge(merged, tile, with_stats)
        if top:
            found = tile.top(min(top, tile.logits.shape[1]))
            merged.top = found if merged.top is None else better(merged.top, found, top)
    return merged


def _merge(merged: _Merged, tile: Tile, with_stats: bool) -> None:
    part = tile.values(with_stats)
    lse = torch.logaddexp(merged.lse, part.lse)
    if with_stats and part.entropy is not None and part.prediction is not None:
        merged.entropy = _share(merged.lse, lse) * ((lse - merged.lse).nan_to_num() + merged.entropy) + _share(
            part.lse, lse
        ) * ((lse - part.lse).nan_to_num() + part.entropy)
        best = tile.logits_at(part.prediction.unsqueeze(1)).squeeze(1)
        better = (best > merged.best) | (best.isnan() & ~merged.best.isnan()) | (merged.prediction < 0)
        merged.prediction = torch.where(better, part.prediction + tile.start, merged.prediction)
        merged.best = torch.where(better, best, merged.best)
        merged.given_lse = torch.logaddexp(merged.given_lse, part.given_lse.double())
    merged.lse = lse
    merged.spread = merged.spread + part.spread
    merged.mass = merged.mass + part.mass
    if part.has_entry is not None and part.entry_logit is not None:
        before = torch.zeros_like(part.entry_logit) if merged.entry_logit is None else merged.entry_logit
        merged.entry_logit = torch.where(part.has_entry, part.entry_logit, before)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """exp(part − whole): 0 for a part without any probability."""
    return torch.where(part == -torch.inf, torch.zeros_like(part), (part - whole).exp())


def _values(tiles: _Tiles, merged: _Merged, with_stats: bool) -> Values:
    """The definition of the loss, in float64, from the merged state."""
    rows, entries = tiles.rows, tiles.terms.entries
    top = 0 if merged.top is None else merged.top[1].shape[1]
    terms, values = rows.problem.terms, empty_values(rows, with_stats=with_stats, top=top)
    where = rows.losses_between(0, len(rows))
    weight = row_weights(rows.problem).reshape(-1)[where].double()
    loss = merged.spread + merged.mass * merged.lse.nan_to_num(neginf=-torch.inf, posinf=torch.inf)
    loss = torch.where(merged.mass == 0, merged.spread, loss)
    if entries is not None and merged.entry_logit is not None and terms.label_smoothing < 1:
        loss = loss + entries.loss(merged.lse.unsqueeze(1) - merged.entry_logit)
    if terms.z_loss:
        loss = loss + weight * terms.z_loss * merged.lse.square()
    values.loss[where] = loss.to(values.loss.dtype)
    values.weight[where] = weight.to(values.weight.dtype)
    values.exact_lse[where] = merged.lse
    if values.mass is not None:
        values.mass[where] = merged.mass.to(values.mass.dtype)
    if values.entropy is not None and values.prediction is not None and values.lse is not None:
        values.lse[where] = torch.where(merged.lse.isnan(), merged.given_lse, merged.lse).to(values.lse.dtype)
        values.entropy[where] = merged.entropy.to(values.entropy.dtype)
        values.prediction[where] = merged.prediction
    if merged.top is not None and values.top_logit is not None and values.top_index is not None:
        values.top_logit[where], values.top_index[where] = merged.top
    return values


def _gradients(
    rows: CountedRows, tiles: _Tiles, values: Values, upstream: Upstream, needs: Needs, of_weight: Tensor | None
) -> Gradients:
    where = rows.losses_between(0, len(rows))
    tiles.terms.begin_backward(values, upstream.between(where), where)
    weight, dtype = rows.problem.weight.detach(), rows.problem.weight.dtype
    exact = accumulator_dtype(dtype)
    of_hidden = torch.zeros(len(rows), weight.shape[1], dtype=exact) if needs.hidden else None
    of_bias = torch.zeros(weight.shape[0], dtype=dtype) if needs.bias else None
    terms = TermGradients(rows, values, upstream, needs)
    for tile in tiles.for_gradients():
        terms.add(0, len(rows), tile.start, tile.logits)
        if not needs.logits:
            continue
        gradient, stop = tile.gradient(), tile.start + tile.logits.shape[1]
        if of_hidden is not None:
            tiles.products.add(of_hidden, gradient, weight[tile.start : stop])
        if of_weight is not None:
            tiles.products.write(of_weight[tile.start : stop], gradient.t(), tiles.hidden)
        if of_bias is not None:
            sums = torch.zeros(gradient.shape[1], dtype=exact)
            add_column_sums(sums, gradient)
            of_bias[tile.start : stop] = sums
    if of_hidden is not None and rows.kept is not None:
        whole = torch.zeros(rows.num_hidden, weight.shape[1], dtype=dtype)
        whole[rows.kept] = of_hidden.to(dtype)
        of_hidden = whole
    made = Gradients(None if of_hidden is None else of_hidden.to(dtype), of_weight, of_bias)
    return with_terms(made, terms)
