"""The losses as modules: each holds its options, `forward` is one call."""

from __future__ import annotations

from xent.nn._linear_cross_entropy import LinearCrossEntropyLoss
from xent.nn._loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, NLLLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss", "NLLLoss"]
