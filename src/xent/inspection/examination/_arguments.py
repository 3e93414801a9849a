"""The arguments of a loss function by torch's names, defaults included."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch.nn import _reduction as legacy


@lru_cache(maxsize=64)
def _parameters_of(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    return tuple(each.name for each in parameters), defaults


def bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a call passed, by name; a call that does not fit gives what fits."""
    names, defaults = _parameters_of(function)
    found = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
    size_average, reduce = found.pop("size_average", None), found.pop("reduce", None)
    if size_average is not None or reduce is not None:
        found["reduction"] = legacy.legacy_get_string(size_average, reduce, emit_warning=False)
    return found
