"""Binary cross-entropy of logits, element by element.

loss = −w · (ω · t · ln σ(x) + (1 − t) · ln(1 − σ(x)))         ω: pos_weight
     =  w · ((1 − t) · x − (1 + (ω − 1) · t) · ln σ(x))
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def elements(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Loss of every element, in the dtype of `input`."""
    positives = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input - positives * logsigmoid(input)
    return loss if weight is None else loss * weight
