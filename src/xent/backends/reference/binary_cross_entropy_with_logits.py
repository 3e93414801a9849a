"""Binary cross-entropy of logits, element by element.

loss = −w · (ω · t · ln σ(x) + (1 − t) · ln σ(−x))             ω: pos_weight

ln σ(−x) is not written as ln σ(x) − x: at x = −16 float32 holds no digit of that difference.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def elements(input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None) -> Tensor:
    """Loss of every element, in the dtype of `input`."""
    positive = target if pos_weight is None else pos_weight * target
    loss = -(positive * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return loss if weight is None else loss * weight
