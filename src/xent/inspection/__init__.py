"""A loss explained, the step it leads to taken apart, mistakes proved. Names resolve on first use, without torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xent.inspection._explain import explain
    from xent.inspection._explanation import Explanation
    from xent.inspection._ledger import StepLedger
    from xent.inspection._step import step
    from xent.inspection.examination._check import check
    from xent.inspection.examination._doctor import doctor
    from xent.inspection.examination._finding import Finding
    from xent.inspection.examination._report import Report
    from xent.inspection.watching._watch import watch

__all__ = ["Explanation", "Finding", "Report", "StepLedger", "check", "doctor", "explain", "step", "watch"]

_HOME_OF = {
    "Explanation": "_explanation",
    "Finding": "examination._finding",
    "Report": "examination._report",
    "StepLedger": "_ledger",
    "check": "examination._check",
    "doctor": "examination._doctor",
    "explain": "_explain",
    "step": "_step",
    "watch": "watching._watch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xent.inspection' has no attribute {name!r}")
    return getattr(import_module(f"xent.inspection.{_HOME_OF[name]}"), name)
