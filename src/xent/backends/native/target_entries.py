"""The classes that the target of a row names: one of a hard target, k of a sparse one. Read and written in float64.

    x logit, z = softcap · tanh(logit_scale · x / softcap), t_c = w_c · ((1 − ε) q_c + ε / C), a = Σ_c t_c
    loss of the entries = (1 − ε) Σ_j w_j q_j (lse − z_j)
    G_c = (ĝ p_c − g t_c − g_H p_c (ln p_c + H)) · dz/dx

The dense part of a row, smoothing and p_c, is the kernels'; they see no target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.sparse_target import summed_over_equals
from xent.terms import LossTerms


@dataclass(frozen=True, eq=False)
class TargetEntries:
    """Entries of M rows, each (M, k).

    Attributes:
        index: classes, int64.
        q: target probabilities, float64; 1 for hard targets.
        share: (1 − ε) w, float64.
        mass: (1 − ε) w q.
        total: t_c of the entry's class: the mass of all its entries and the smoothing's.
    """

    index: Tensor
    q: Tensor
    share: Tensor
    mass: Tensor
    total: Tensor

    def loss(self, surprisal: Tensor) -> Tensor:
        """Σ mass · (lse − z), (M,); 0 · ∞ is 0 where the target's probability is 0."""
        return (self.mass * surprisal.masked_fill((self.q == 0) & (surprisal == torch.inf), 0)).sum(1)


def target_entries(
    index: Tensor, probabilities: Tensor | None, class_weight: Tensor | None, classes: int, smoothing: float
) -> TargetEntries:
    """Entries of targets (M,), or (M, k) with their probabilities; no index is an ignored one."""
    index = index.unsqueeze(1) if probabilities is None else index
    q = torch.ones(index.shape, dtype=torch.float64) if probabilities is None else probabilities.detach().double()
    weight = torch.ones_like(q) if class_weight is None else class_weight.double()[index]
    share = (1 - smoothing) * weight
    mass = q * share
    total = mass if index.shape[1] == 1 else summed_over_equals(index, mass)
    return TargetEntries(index, q, share, mass, total + smoothing / classes * weight)


def scaled(x: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """From float64 logits x the z of the equation, and dz/dx."""
    x, slope = x * terms.logit_scale, torch.full_like(x, terms.logit_scale)
    if terms.softcap is None:
        return x, slope
    bent = torch.tanh(x / terms.softcap)
    return terms.softcap * bent, slope * (1 - bent.square())


@dataclass(frozen=True, eq=False)
class RowGradients:
    """What multiplies the parts of a row's gradient, float64, each (M,).

    Attributes:
        target: g, of t_c.
        lse: ĝ, of p_c.
        saved_lse: logsumexp.
        lse_low: what float64 rounded off it.
        entropy: g_H; None for 0.
        saved_entropy: H.
    """

    target: Tensor
    lse: Tensor
    saved_lse: Tensor
    lse_low: Tensor
    entropy: Tensor | None = None
    saved_entropy: Tensor | None = None

    def at(self, rows: Tensor) -> RowGradients:
        """Those of some rows."""
        return self._each(lambda part: part[rows])

    def beside_entries(self, dim: int = 1) -> RowGradients:
        """Each as a column, to be broadcast over entries (M, k), or (*rows, k) with dim=-1."""
        return self._each(lambda part: part.unsqueeze(dim))

    def _each(self, change: Callable[[Tensor], Tensor]) -> RowGradients:
        entropy = None if self.entropy is None else change(self.entropy)
        saved_entropy = None if self.saved_entropy is None else change(self.saved_entropy)
        target, lse = change(self.target), change(self.lse)
        return RowGradients(target, lse, change(self.saved_lse), change(self.lse_low), entropy, saved_entropy)


def entry_gradient(x: Tensor, total: Tensor, terms: LossTerms, row: RowGradients) -> Tensor:
    """G of entries with float64 logits x and t_c `total`; all of one shape, or broadcast."""
    z, slope = scaled(x, terms)
    log_p = (z - row.saved_lse) - row.lse_low
    p = log_p.exp()
    entry = row.lse * p - row.target * total
    if row.entropy is not None and row.saved_entropy is not None:
        entry = entry - row.entropy * torch.where(p > 0, p * (log_p + row.saved_entropy), 0.0)
    return entry * slope
