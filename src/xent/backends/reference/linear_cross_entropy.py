"""Cross-entropy of a linear layer's output: logits = hidden · Wᵀ + b, then cross-entropy row by row."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear


def logits(hidden: Tensor, linear_weight: Tensor, linear_bias: Tensor | None) -> Tensor:
    """The logits (*rows, C) of hidden (*rows, D) and linear_weight (C, D), held whole."""
    return linear(hidden, linear_weight, linear_bias)
