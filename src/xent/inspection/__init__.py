"""Understand a loss: the value explained, mistakes proved."""

from __future__ import annotations

from xent.inspection._explain import explain
from xent.inspection._explanation import Explanation
from xent.inspection.examination._doctor import doctor

__all__ = ["Explanation", "doctor", "explain"]
