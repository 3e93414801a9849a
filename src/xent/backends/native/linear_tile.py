"""The logits of all counted rows for some of the classes: their part of the values, and their gradient in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.backends.native.linear_rows import CountedRows, row_weights
from xent.backends.native.linear_values import Upstream, Values
from xent.backends.native.target_entries import RowGradients, TargetEntries, entry_gradient, scaled, target_entries
from xent.backends.native.top_classes import top_classes
from xent.problem import stats_dtype

if TYPE_CHECKING:
    from xent.backends.native import _kernels


@dataclass(frozen=True, eq=False)
class TileValues:
    """What a tile adds to the rows' state, float64, each (M,); of the k entries of a target (M, k)."""

    lse: Tensor  # that a softmax is made of: NaN where it is +inf
    given_lse: Tensor  # in the dtype of the statistics, ±inf where it is that
    spread: Tensor  # Σ t_c (lse_tile − z_c) − mass · lse_tile
    mass: Tensor
    has_entry: Tensor | None
    entry_logit: Tensor | None
    entropy: Tensor | None
    prediction: Tensor | None


class TileTerms:
    """What all tiles of one problem share."""

    def __init__(self, rows: CountedRows) -> None:
        self.rows, self.terms = rows, rows.problem.terms
        self.dtype = stats_dtype(rows.problem.hidden.dtype)
        self.count, self.classes = len(rows), rows.problem.num_classes
        self.is_dense = rows.problem.is_dense
        self.zeros = torch.zeros(self.count, dtype=torch.int64)
        weight = self.terms.weight
        self.class_weight = None if weight is None else weight.detach().to(self.dtype).contiguous()
        self.entries = None if self.is_dense else self._entries()

    def _entries(self) -> TargetEntries:
        terms = self.terms
        index = self.rows.target_between(0, self.count)
        index = index.masked_fill(index == terms.ignore_index, 0)
        probabilities = self.rows.probabilities_between(0, self.count)
        return target_entries(index, probabilities, self.class_weight, self.classes, terms.label_smoothing)

    def begin_backward(self, values: Values, upstream: Upstream, where: Tensor | slice) -> None:
        """Fold the upstream gradients into what multiplies p_c and t_c."""
        terms = self.terms
        g = torch.zeros(self.count, dtype=torch.float64) if upstream.loss is None else upstream.loss.double()
        weight, lse = row_weights(self.rows.problem).reshape(-1)[where].double(), values.exact_lse[where]
        g_lse = g * self._mass(values, where) + 2 * terms.z_loss * g * weight * lse
        if upstream.lse is not None:
            g_lse = g_lse + upstream.lse.double()
        entropy = None if values.entropy is None else values.entropy[where].double()
        g_entropy = None if upstream.entropy is None else upstream.entropy.double()
        self.row = RowGradients(g, g_lse, lse, torch.zeros_like(lse), g_entropy, entropy)

    def _mass(self, values: Values, where: Tensor | slice) -> Tensor:
        """The sum a of the weighted target over all classes."""
        if values.mass is not None:
            return values.mass[where].double()
        mass = torch.zeros(self.count, dtype=torch.float64) if self.entries is None else self.entries.mass.sum(1)
        total = self.classes if self.class_weight is None else self.class_weight.sum(dtype=torch.float64)
        return mass + self.terms.label_smoothing / self.classes * total


class Tile:
    """Logits (M, T) of the classes from `start` on, in a buffer that the gradient will take."""

    def __init__(self, start: int, logits: Tensor, buffer: Tensor, shared: TileTerms) -> None:
        self.start, self.logits, self.buffer, self._shared = start, logits, buffer, shared

    def logits_at(self, column: Tensor) -> Tensor:
        """Z of some classes of the tile for each row, (M, k), float64, after scale and soft cap."""
        return scaled(self.logits.gather(1, column).double(), self._shared.terms)[0]

    def values(self, with_stats: bool) -> TileValues:
        """The tile's part of the rows' state."""
        from xent.backends.native import _kernels

        shared = self._shared
        outputs = {name: torch.empty(shared.count, dtype=shared.dtype) for name in ("loss", "lse")}
        outputs["exact_lse"] = torch.empty(shared.count, dtype=torch.float64)
        if with_stats:
            outputs["entropy"] = torch.empty(shared.count, dtype=shared.dtype)
            outputs["prediction"] = torch.empty(shared.count, dtype=torch.int64)
        if shared.is_dense:
            outputs["mass"] = torch.empty(shared.count, dtype=shared.dtype)
        _kernels.cross_entropy(self._kernel_problem(backward=False), outputs, torch.get_num_threads())
        empty = outputs["lse"] == -torch.inf  # every class of the tile masked: NaN as a softmax, nothing as a part
        lse = outputs["exact_lse"].masked_fill(empty, -torch.inf)
        mass, spread = self._dense_target(outputs, lse)
        has_entry, entry_logit = self._entry_logits()
        return TileValues(
            lse=lse,
            given_lse=outputs["lse"],
            spread=spread,
            mass=mass,
            has_entry=has_entry,
            entry_logit=entry_logit,
            entropy=outputs["entropy"].double().masked_fill(empty, 0) if with_stats else None,
            prediction=outputs.get("prediction"),
        )

    def top(self, count: int) -> tuple[Tensor, Tensor]:
        """Z and indices of the most likely classes of the tile, (M, count)."""
        best = top_classes(self.logits, count, self._shared.terms)
        return self.logits_at(best), best + self.start

    def gradient(self) -> Tensor:
        """dL/dlogits (M, T), written over the logits."""
        from xent.backends.native import _kernels

        shared = self._shared
        row, at_entries = shared.row, self._entry_gradients()
        g_target = row.target.to(shared.dtype)
        if not shared.is_dense:
            g_target = g_target * (shared.terms.label_smoothing * self.logits.shape[1] / shared.classes)
        upstream = _kernels.Upstream(
            g_target if shared.is_dense or shared.terms.label_smoothing > 0 else None,
            row.lse.to(shared.dtype),
            None if row.entropy is None else row.entropy.to(shared.dtype),
            row.saved_lse,
            None if row.saved_entropy is None else row.saved_entropy.to(shared.dtype),
            torch.zeros(shared.count, dtype=shared.dtype) if shared.is_dense else None,
        )
        _kernels.cross_entropy_gradient(
            self._kernel_problem(backward=True), upstream, self.logits, False, torch.get_num_threads()
        )
        if at_entries is not None:
            rows, column, value = at_entries
            self.logits[rows, column] = value.to(self.logits.dtype)
        return self.logits

    def _kernel_problem(self, *, backward: bool) -> _kernels.Problem:
        """The tile as a problem of its own, without row weight and z-term, which the caller adds.

        A hard or sparse target counts by its dense part alone: smoothing 1 over the tile, or none; its entries are
        set apart.
        Backward, the sum of its class weights is given as 0: its gradient then has no p_c of its own, ĝ carries it all.
        """
        from xent.backends.native import _kernels

        shared, terms = self._shared, self._shared.terms
        stop = self.start + self.logits.shape[1]
        weight = None if shared.class_weight is None else shared.class_weight[self.start : stop]
        target, probabilities = (None, self._probabilities()) if shared.is_dense else (shared.zeros, None)
        made = _kernels.Problem(self.logits, target, probabilities, weight, None)
        smoothing = 1.0 if not shared.is_dense and terms.label_smoothing > 0 else 0.0
        total = 0.0 if backward else self._class_weight_sum()
        made.set_options(-1, smoothing, 0.0, terms.softcap or 0.0, terms.logit_scale, total)
        return made

    def _probabilities(self) -> Tensor:
        shared, smoothing = self._shared, self._shared.terms.label_smoothing
        classes = slice(self.start, self.start + self.logits.shape[1])
        tile = shared.rows.target_between(0, shared.count, classes).detach()
        if not smoothing:
            return tile
        return tile.to(shared.dtype, copy=True).mul_(1 - smoothing).add_(smoothing / shared.classes)

    def _class_weight_sum(self) -> float:
        weight, width = self._shared.class_weight, self.logits.shape[1]
        return float(width if weight is None else weight[self.start : self.start + width].sum(dtype=torch.float64))

    def _dense_target(self, outputs: dict[str, Tensor], lse: Tensor) -> tuple[Tensor, Tensor]:
        """Mass and spread of the dense target, or of the smoothing of another."""
        shared, width = self._shared, self.logits.shape[1]
        if not shared.is_dense:
            if not shared.terms.label_smoothing:
                nothing = torch.zeros_like(lse)
                return nothing, nothing
            scale = shared.terms.label_smoothing * width / shared.classes
            loss = outputs["loss"].double() * scale
            mass = torch.full_like(lse, self._class_weight_sum() * shared.terms.label_smoothing / shared.classes)
        else:
            loss, mass = outputs["loss"].double(), outputs["mass"].double()
        masked = lse == -torch.inf
        spread = loss - mass * lse
        return mass, torch.where(masked, torch.where(mass == 0, 0.0, torch.inf), spread)

    def _entry_logits(self) -> tuple[Tensor | None, Tensor | None]:
        """Which entries of the targets are in the tile, and their z, both (M, k)."""
        entries = self._shared.entries
        if entries is None:
            return None, None
        column = entries.index - self.start
        here = (column >= 0) & (column < self.logits.shape[1])
        return here, self.logits_at(column.masked_fill(~here, 0))

    def _entry_gradients(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Rows with an entry in the tile, its column, and its gradient from the logits; equal entries get one value."""
        shared, entries = self._shared, self._shared.entries
        if entries is None:
            return None
        column = entries.index - self.start
        rows, number = ((column >= 0) & (column < self.logits.shape[1])).nonzero(as_tuple=True)
        column = column[rows, number]
        x = self.logits[rows, column].double()
        return rows, column, entry_gradient(x, entries.total[rows, number], shared.terms, shared.row.at(rows))
