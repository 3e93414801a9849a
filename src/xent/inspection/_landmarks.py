"""What a loss is read against: the least that its targets allow, a prediction that ignores the input, guessing.

With t the mass of a row's target (class weights and smoothing in it), a = Σ_c t_c and u the row's factor in the value:

    floor   = Σ_i u_i · a_i · H(t_i / a_i)                  the prediction is the target itself
    prior   = A · H(T / A),   T = Σ_i u_i t_i,  A = Σ_c T_c  one prediction for all rows, the best one
    uniform = A · ln C                                       every class alike

all divided by A, so that they are nats for one unit of weight: one row of a mean.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from xent.inspection._term import Term, exact_sum


@dataclass(frozen=True)
class Landmarks:
    """A loss among its landmarks, all in nats for one unit of weight.

    Attributes:
        nats: the loss, the z-term left out.
        floor: the least value that the targets allow.
        label_prior: the loss of the best prediction that is the same for every row.
        uniform: ln C, guessing.
        num_classes: C.
        mass: A, the units of weight in the value; 1 for a plain mean.
    """

    nats: float
    floor: float
    label_prior: float
    uniform: float
    num_classes: int
    mass: float = 1.0

    @property
    def bits(self) -> float:
        """Nats / ln 2."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats): how many equally likely classes would cost as much."""
        return math.exp(self.nats) if self.nats < 709 else math.inf  # exp overflows float64 above 709.78

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "bits": self.bits, "perplexity": self.perplexity}


def landmarks_of(term: Term) -> Landmarks | None:
    """The landmarks of a term; None where it has none: no log-probabilities, no rows, weights that are not positive."""
    if not term.scores.normalised or not term.num_counted:
        return None
    mass, floor = _class_mass_and_floor(term)
    whole = exact_sum(mass)
    if not whole > 0 or not math.isfinite(whole) or bool((mass < 0).any()):
        return None
    cost = term.cost if term.z_part is None else term.cost - term.z_part
    value = exact_sum((term.upstream * cost)[term.counted])
    prior = exact_sum(torch.special.entr(mass / whole))
    if not math.isfinite(value):
        return None
    uniform = math.log(term.num_classes)
    return Landmarks(value / whole, max(floor / whole, 0.0), prior, uniform, term.num_classes, whole)


def _class_mass_and_floor(term: Term) -> tuple[Tensor, float]:
    if term.target is not None and not term.is_binary:
        return _of_indices(term)
    mass, floors = torch.zeros(term.num_classes, dtype=torch.float64), []
    for rows in term.blocks():
        t, factor = term.mass(rows), term.upstream[rows]
        mass += (t * factor.unsqueeze(1)).sum(0)
        floors.append(factor * _entropy_of_mass(t))
    return mass, exact_sum(torch.cat(floors))


def _entropy_of_mass(t: Tensor) -> Tensor:
    """A · H(t / a) = Σ entr(t) + a ln a."""
    a = t.sum(-1)
    return torch.special.entr(t).sum(-1) - torch.special.entr(a)


def _of_indices(term: Term) -> tuple[Tensor, float]:
    """The same for class indices, without a table: t is ε/C·w_c everywhere and (1 − ε)·w_y more at the target."""
    kept, smoothing = 1 - term.label_smoothing, term.label_smoothing / term.num_classes
    y, factor = term.labels(term.counted.nonzero().squeeze(1)), term.upstream[term.counted]
    if term.row_weight is not None:
        factor = factor * term.row_weight[term.counted]
    weight = torch.ones(term.num_classes, dtype=torch.float64) if term.class_weight is None else term.class_weight
    mass = torch.zeros(term.num_classes, dtype=torch.float64).index_add_(0, y, kept * weight[y] * factor)
    mass = mass + smoothing * weight * factor.sum()
    if not smoothing:
        return mass, 0.0
    spread, own = torch.special.entr(smoothing * weight), (kept + smoothing) * weight
    a = kept * weight + smoothing * weight.sum()
    floor = spread.sum() - spread + torch.special.entr(own) - torch.special.entr(a)
    return mass, exact_sum(factor * floor[y])
