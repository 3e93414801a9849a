"""Libraries that only some displays need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from xent.errors import DependencyError


def needed(module: str, what: str) -> ModuleType:
    """The module, or an error that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DependencyError(f"{module} is not installed", f"{what} needs it", f"pip install {module}") from error
