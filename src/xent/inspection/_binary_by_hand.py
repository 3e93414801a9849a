"""Binary cross-entropy by hand: t · ln σ(x) + (1 − t) · ln σ(−x), or t · ln p + (1 − t) · ln(1 − p).

What multiplies the two logarithms of an element is upstream · r · t and upstream · r · (1 − t): their sum is its
weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._expressions import Elementwise, Expression, Known, every_place
from xent.inspection._leaves import Picks
from xent.inspection._reduction_words import reduced_like
from xent.inspection._scores import BinaryScores
from xent.inspection._term import Term


@dataclass(frozen=True, eq=False)
class Logarithms:
    """The logarithms of one table, each element once, with the factors with which they enter the value."""

    base: Elementwise
    values: Tensor
    factor: Tensor


def logarithms_of(base: Expression, picks: Sequence[tuple[Picks, Tensor]]) -> Logarithms | None:
    """Those of a table, if all of its elements were read in order."""
    if not isinstance(base, Elementwise) or base.name not in ("LogSigmoid", "Log") or not picks:
        return None
    if any(leaf.values.numel() != base.numel for leaf, _ in picks):
        return None
    factor = torch.stack([factor for _, factor in picks]).sum(0)
    return Logarithms(base, picks[0][0].values.detach().reshape(-1), factor)


def pairs_of(found: dict[Hashable, Logarithms]) -> list[tuple[Hashable, Hashable]]:
    """Keys of (ln p, ln (1 − p))."""
    pairs, left = [], dict(found)
    for key, one in found.items():
        if key not in left:
            continue
        other = next((k for k, v in left.items() if k != key and _complete(one.base, v.base)), None)
        if other is not None:
            pairs.append((key, other))
            del left[key], left[other]
    return pairs


def _complete(one: Elementwise, other: Elementwise) -> bool:
    """Whether exp of the one and exp of the other are 1 together; the one is that of the positives."""
    if one.name != other.name or one.shape != other.shape:
        return False
    if one.name == "LogSigmoid":
        inner = other.operands[0]
        return isinstance(inner, Elementwise) and inner.name == "Neg" and inner.operands[0].key == one.operands[0].key
    p, q = one.operands[0], other.operands[0]
    if not isinstance(p, Known) or not isinstance(q, Known):
        return False
    return bool(((p.tensor.double() + q.tensor.double() - 1).abs() < 1e-6).all())


def term_by_hand(positive: Logarithms, negative: Logarithms, tolerance: float) -> Term | None:
    """The term of a pair; None if no targets fit the factors."""
    inner = positive.base.operands[0]
    elements = inner.tensor if isinstance(inner, Known) else inner.at(every_place(inner.shape))
    of_one, of_zero = -positive.factor, -negative.factor
    mass = of_one + of_zero
    if bool((mass == 0).all()):
        return None
    t = torch.where(mass != 0, of_one / mass, 0.0)
    t = torch.where((t - t.round()).abs() < tolerance, t.round(), t)
    same = bool(((mass - mass[0]).abs() <= tolerance * mass.abs().max()).all())
    upstream = mass if same else torch.ones_like(mass)
    weight = None if same else mass
    hard = bool(((t == 0) | (t == 1)).all())
    if hard:  # 0 · −∞ is no number
        surprisal = -torch.where(t == 1, positive.values, negative.values)
    else:
        surprisal = -(t * positive.values + (1 - t) * negative.values)
    is_logits = positive.base.name == "LogSigmoid"
    return reduced_like(
        Term(
            kind="binary_cross_entropy_with_logits" if is_logits else "binary_cross_entropy",
            written="by hand, of logsigmoid" if is_logits else "by hand, of log",
            scores=BinaryScores(elements, is_logits),
            row_ids=torch.arange(len(t)),
            row_shape=positive.base.shape or (1,),
            target=t.long() if hard else None,
            probabilities=lambda rows: torch.stack([1 - t[rows], t[rows]], -1),
            counted=torch.ones(len(t), dtype=torch.bool),
            surprisal=surprisal,
            cost=surprisal if weight is None else weight * surprisal,
            weight=torch.ones(len(t), dtype=torch.float64),
            upstream=upstream,
            row_weight=weight,
        ),
        None,
        tolerance=tolerance,
    )
