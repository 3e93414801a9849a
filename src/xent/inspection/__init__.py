"""Understand a loss and the step that it leads to: the value explained, the update taken apart."""

from __future__ import annotations

from xent.inspection._explain import explain
from xent.inspection._explanation import Explanation
from xent.inspection._ledger import StepLedger
from xent.inspection._step import step

__all__ = ["Explanation", "StepLedger", "explain", "step"]
