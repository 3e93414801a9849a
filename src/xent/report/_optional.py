"""Libraries that only some displays need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from xent.errors import DependencyError


def needed(module: str, what: str, extra: str = "explain") -> ModuleType:
    """The module, or an error that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        do = f"pip install {package.replace('_', '-')}, or 'xent[{extra}]' for all that {extra} can use"
        raise DependencyError(f"{package} is not installed", f"{what} needs it", do) from error
