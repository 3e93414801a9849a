"""Cross-entropy of a linear layer: the product is torch's, the loss of the logits, held whole, the kernels'."""

from __future__ import annotations

from xent.backends.reference.linear_cross_entropy import logits

__all__ = ["logits"]
