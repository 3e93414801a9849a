"""Understand a loss: the value explained."""

from __future__ import annotations

from xent.inspection._explain import explain
from xent.inspection._explanation import Explanation

__all__ = ["Explanation", "explain"]
