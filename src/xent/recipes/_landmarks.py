"""The values a cross-entropy is read against: certainty, the label prior, guessing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Landmarks:
    """Losses in nats that a classifier with C classes is measured against.

    Attributes:
        num_classes: C.
        guessing: ln C, the loss of the uniform prediction.
        label_prior: entropy of the label frequencies, the loss of the best prediction that ignores its input.
        floor: the least loss that the targets allow: 0, or the entropy of a smoothed target.
    """

    num_classes: int
    guessing: float
    label_prior: float
    floor: float

    def to_dict(self) -> dict[str, float]:
        """The landmarks by name, ready for JSON."""
        return asdict(self)


def landmarks_of(labels: Tensor, num_classes: int, label_smoothing: float = 0.0) -> Landmarks:
    """Landmarks of the labels (N,) of a training set."""
    prior = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    return Landmarks(
        num_classes=num_classes,
        guessing=math.log(num_classes),
        label_prior=float(torch.special.entr(prior).sum()),
        floor=_smoothed_target_entropy(num_classes, label_smoothing),
    )


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """exp(nats): the number of equally likely classes that would give this loss."""
    return math.exp(nats) if nats < 709 else math.inf  # exp overflows float64 above 709.78


def _smoothed_target_entropy(num_classes: int, label_smoothing: float) -> float:
    other = label_smoothing / num_classes
    if other == 0:
        return 0.0
    own = 1 - label_smoothing + other
    return -own * math.log(own) - (num_classes - 1) * other * math.log(other)
