"""The values a cross-entropy is read against: certainty, what frequencies alone reach, guessing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

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

    @property
    def marks(self) -> tuple[float, ...]:
        """Those that the ruler shows."""
        return (self.label_prior, self.guessing)

    def in_words(self) -> str:
        """All of them, a line or two."""
        line = (
            f"{self.guessing:.4f} = ln {self.num_classes}, guessing · "
            f"{self.label_prior:.4f} = entropy of the label prior"
        )
        return line + (f"\n{self.floor:.4f} = least smoothed loss" if self.floor else "")

    def to_dict(self) -> dict[str, float]:
        """The landmarks by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TextLandmarks:
    """Losses in nats that a language model with V tokens is measured against, on the tokens that validate it.

    Attributes:
        num_tokens: V.
        guessing: ln V, the loss of the uniform prediction.
        unigram: the loss of predicting the frequencies that the tokens have in the training part, one added to each
            count so that no token is impossible.
        tokens_per_byte: of the text that validates: what turns nats per token into bits per byte.
    """

    num_tokens: int
    guessing: float
    unigram: float
    tokens_per_byte: float

    @property
    def marks(self) -> tuple[float, ...]:
        """Those that the ruler shows."""
        return (self.unigram, self.guessing)

    def in_words(self) -> str:
        """Both, in a line."""
        return f"{self.unigram:.4f} = unigram, token frequencies · {self.guessing:.4f} = ln {self.num_tokens}, guessing"

    def baselines(self) -> dict[str, dict[str, float]]:
        """What predictions that need no model get: loss and bits per byte by name."""
        losses = {"unigram": self.unigram, "uniform": self.guessing}
        return {
            name: {"loss": loss, "bits_per_byte": bits(loss) * self.tokens_per_byte} for name, loss in losses.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The landmarks by name, ready for JSON."""
        shown = {
            name: {**values, "perplexity": perplexity(values["loss"])} for name, values in self.baselines().items()
        }
        return {"num_tokens": self.num_tokens, **shown}


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
