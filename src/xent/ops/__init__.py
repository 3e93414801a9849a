"""The border between the public functions and the backends: pick a column, call it, say why."""

from __future__ import annotations

from xent.ops.choice import Choice, backend, choices

__all__ = ["Choice", "backend", "choices"]
