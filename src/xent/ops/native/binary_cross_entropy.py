"""Binary cross-entropy of probabilities: torch's compiled operation, which defines it, is the kernel."""

from __future__ import annotations

from xent.backends.reference.binary_cross_entropy import elements

__all__ = ["elements"]
