"""Understand a loss: the value explained, mistakes proved. Names resolve on first use: the slugs need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xent.inspection._explain import explain
    from xent.inspection._explanation import Explanation
    from xent.inspection.examination._check import check
    from xent.inspection.examination._doctor import doctor
    from xent.inspection.examination._finding import Finding
    from xent.inspection.examination._report import Report

__all__ = ["Explanation", "Finding", "Report", "check", "doctor", "explain"]

_HOME_OF = {
    "Explanation": "_explanation",
    "Finding": "examination._finding",
    "Report": "examination._report",
    "check": "examination._check",
    "doctor": "examination._doctor",
    "explain": "_explain",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xent.inspection' has no attribute {name!r}")
    return getattr(import_module(f"xent.inspection.{_HOME_OF[name]}"), name)
