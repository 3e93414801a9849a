"""The logits of all counted rows for some of the classes: their part of the values, and their gradient in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.backends.native.linear_rows import CountedRows, row_weights
from xent.backends.native.linear_values import Upstream, Values
from xent.problem import stats_dtype

if TYPE_CHECKING:
    from xent.backends.native import _kernels


@dataclass(frozen=True, eq=False)
class TileValues:
    """What a tile adds to the rows' state, float64, each (M,)."""

    lse: Tensor
    spread: Tensor  # Σ t_c (lse_tile − z_c) − mass · lse_tile
    mass: Tensor
    has_target: Tensor
    target_logit: Tensor
    entropy: Tensor | None
    prediction: Tensor | None


class TileTerms:
    """What all tiles of one problem share."""

    def __init__(self, rows: CountedRows) -> None:
        self.rows, self.terms = rows, rows.problem.terms
        self.dtype = stats_dtype(rows.hidden.dtype)
        self.count, self.classes = len(rows), rows.problem.num_classes
        self.target = rows.target_between(0, self.count)
        self.zeros = torch.zeros(self.count, dtype=torch.int64)
        weight = self.terms.weight
        self.class_weight = None if weight is None else weight.detach().to(self.dtype)

    def begin_backward(self, values: Values, upstream: Upstream, where: Tensor | slice) -> None:
        """Fold the upstream gradients into what multiplies p_c and t_c."""
        terms = self.terms
        self.lse = values.exact_lse[where]
        g = torch.zeros(self.count, dtype=torch.float64) if upstream.loss is None else upstream.loss.double()
        row_weight = self.rows.terms_between(0, self.count).row_weight
        self.g_target = g if row_weight is None else g * row_weight.detach().double()
        weight = row_weights(self.rows.problem).reshape(-1)[where].double()
        g_lse = self.g_target * self._mass(values, where) + 2 * terms.z_loss * g * weight * self.lse
        if upstream.lse is not None:
            g_lse = g_lse + upstream.lse.double()
        self.g_lse = g_lse
        self.g_entropy = upstream.entropy
        self.entropy = None if values.entropy is None else values.entropy[where]

    def _mass(self, values: Values, where: Tensor | slice) -> Tensor:
        """The sum a of the weighted target over all classes."""
        if values.mass is not None:
            return values.mass[where].double()
        smoothing = self.terms.label_smoothing
        if self.class_weight is None:
            return torch.ones(self.count, dtype=torch.float64)
        mass = (1 - smoothing) * self.class_weight.double().index_select(0, self.target)
        return mass + smoothing / self.classes * self.class_weight.sum(dtype=torch.float64)


class Tile:
    """Logits (M, T) of the classes from `start` on, in a buffer that the gradient will take."""

    def __init__(self, start: int, logits: Tensor, buffer: Tensor, shared: TileTerms) -> None:
        self.start, self.logits, self.buffer, self._shared = start, logits, buffer, shared

    def logits_at(self, column: Tensor) -> Tensor:
        """Z of one class of the tile for each row, float64, after scale and soft cap."""
        terms = self._shared.terms
        z = self.logits.gather(1, column.unsqueeze(1)).squeeze(1).double() * terms.logit_scale
        return z if terms.softcap is None else terms.softcap * torch.tanh(z / terms.softcap)

    def values(self, with_stats: bool) -> TileValues:
        """The tile's part of the rows' state."""
        from xent.backends.native import _kernels

        shared = self._shared
        outputs = {name: torch.empty(shared.count, dtype=shared.dtype) for name in ("loss", "lse")}
        outputs["exact_lse"] = torch.empty(shared.count, dtype=torch.float64)
        if with_stats:
            outputs["entropy"] = torch.empty(shared.count, dtype=shared.dtype)
            outputs["prediction"] = torch.empty(shared.count, dtype=torch.int64)
        if not shared.rows.problem.is_hard:
            outputs["mass"] = torch.empty(shared.count, dtype=shared.dtype)
        _kernels.cross_entropy(self._kernel_problem(backward=False), outputs, torch.get_num_threads())
        empty = outputs["lse"] == -torch.inf  # every class of the tile masked: NaN as a softmax, nothing as a part
        lse = outputs["exact_lse"].masked_fill(empty, -torch.inf)
        mass, spread = self._dense_target(outputs, lse)
        column = shared.target - self.start if shared.rows.problem.is_hard else shared.zeros
        has_target = (column >= 0) & (column < self.logits.shape[1])
        has_target &= shared.rows.problem.is_hard
        return TileValues(
            lse=lse,
            spread=spread,
            mass=mass,
            has_target=has_target,
            target_logit=self.logits_at(column.masked_fill(~has_target, 0)),
            entropy=outputs["entropy"].double().masked_fill(empty, 0) if with_stats else None,
            prediction=outputs.get("prediction"),
        )

    def gradient(self) -> Tensor:
        """dL/dlogits (M, T), written over the logits."""
        from xent.backends.native import _kernels

        shared = self._shared
        at_target = self._target_entries() if shared.rows.problem.is_hard else None
        g_target = shared.g_target.to(shared.dtype)
        if shared.rows.problem.is_hard:
            g_target = g_target * (shared.terms.label_smoothing * self.logits.shape[1] / shared.classes)
        dense = not shared.rows.problem.is_hard or shared.terms.label_smoothing > 0
        upstream = _kernels.Upstream(
            g_target if dense else None,
            shared.g_lse.to(shared.dtype),
            shared.g_entropy,
            shared.lse,
            shared.entropy,
            None if shared.rows.problem.is_hard else torch.zeros(shared.count, dtype=shared.dtype),
        )
        _kernels.cross_entropy_gradient(
            self._kernel_problem(backward=True), upstream, self.logits, False, torch.get_num_threads()
        )
        if at_target is not None:
            rows, column, value = at_target
            self.logits[rows, column] = value.to(self.logits.dtype)
        return self.logits

    def _kernel_problem(self, *, backward: bool) -> _kernels.Problem:
        """The tile as a problem of its own, without row weight and z-term, which the caller adds.

        A hard target counts by its dense part alone: smoothing 1 over the tile (its own entry is set apart), or none.
        Backward, the sum of its class weights is given as 0: its gradient then has no p_c of its own, ĝ carries it all.
        """
        from xent.backends.native import _kernels

        shared, terms = self._shared, self._shared.terms
        stop = self.start + self.logits.shape[1]
        weight = None if shared.class_weight is None else shared.class_weight[self.start : stop]
        hard = shared.rows.problem.is_hard
        made = _kernels.Problem(
            self.logits, shared.zeros if hard else None, None if hard else self._probabilities(), weight, None
        )
        smoothing = 1.0 if hard and terms.label_smoothing > 0 else 0.0
        total = 0.0 if backward else self._class_weight_sum()
        made.set_options(-1, smoothing, 0.0, terms.softcap or 0.0, terms.logit_scale, total)
        return made

    def _probabilities(self) -> Tensor:
        shared, smoothing = self._shared, self._shared.terms.label_smoothing
        tile = shared.target.detach()[:, self.start : self.start + self.logits.shape[1]]
        return (1 - smoothing) * tile.to(shared.dtype) + smoothing / shared.classes if smoothing else tile

    def _class_weight_sum(self) -> float:
        weight, width = self._shared.class_weight, self.logits.shape[1]
        return float(width if weight is None else weight[self.start : self.start + width].sum(dtype=torch.float64))

    def _dense_target(self, outputs: dict[str, Tensor], lse: Tensor) -> tuple[Tensor, Tensor]:
        """Mass and spread of the probability target, or of the smoothing of a hard one."""
        shared, width = self._shared, self.logits.shape[1]
        if shared.rows.problem.is_hard:
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

    def _target_entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows whose target is in the tile, its column, and the entry of the gradient there, from the logits."""
        shared, terms = self._shared, self._shared.terms
        column = shared.target - self.start
        rows = ((column >= 0) & (column < self.logits.shape[1])).nonzero().squeeze(1)
        column = column[rows]
        x = self.logits[rows, column].double() * terms.logit_scale
        slope = torch.full_like(x, terms.logit_scale)
        if terms.softcap is not None:
            bent = torch.tanh(x / terms.softcap)
            x, slope = terms.softcap * bent, slope * (1 - bent.square())
        log_p = x - shared.lse[rows]
        p = log_p.exp()
        weight = 1.0 if shared.class_weight is None else shared.class_weight[shared.target[rows]].double()
        mass = (1 - terms.label_smoothing + terms.label_smoothing / shared.classes) * weight
        entry = shared.g_lse[rows] * p - shared.g_target[rows] * mass
        if shared.g_entropy is not None and shared.entropy is not None:
            surprisal = torch.where(p > 0, p * (log_p + shared.entropy[rows].double()), 0.0)
            entry = entry - shared.g_entropy[rows].double() * surprisal
        return rows, column, entry * slope
