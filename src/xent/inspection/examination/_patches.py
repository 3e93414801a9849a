"""Putting functions in the place of others, everywhere they are held by name, and back."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

Wrapping = Callable[[Callable[..., Any]], Callable[..., Any]]


def as_original(original: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a wrapper look like what it wraps: its name, its text, and the place that its warnings name."""

    def dress(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        named = ("__name__", "__qualname__", "__doc__")
        return unseen_by_warnings(functools.wraps(original, assigned=named)(wrapper))

    return dress


def unseen_by_warnings(function: Any) -> Any:
    """Let `warnings.warn(stacklevel=2)` in what `function` calls name the user's line.

    Python leaves out frames whose file name has these two words, which are meant for its import machinery.
    """
    code = function.__code__
    function.__code__ = code.replace(co_filename=f"{code.co_filename} <not named by warnings: importlib._bootstrap>")
    return function


class Patches:
    """What stands in the place of what.

    Functions of modules are exchanged in every loaded module that holds them by name (`from torch.nn.functional import
    cross_entropy`), methods in their class.
    """

    def __init__(self) -> None:
        self._functions: dict[int, tuple[Any, Any]] = {}  # id of what stood there → (it, its wrapper)
        self._methods: list[tuple[type, str, Any, Any]] = []
        self._inherited: list[tuple[type, str, Any]] = []

    def function(self, module: object, name: str, wrapping: Wrapping) -> None:
        """Wrap a function of a module, if it has it; in effect with `apply`."""
        original = getattr(module, name, None)
        if original is not None and id(original) not in self._functions:
            self._functions[id(original)] = (original, wrapping(original))

    def method(self, kind: type, name: str, wrapping: Wrapping) -> None:
        """Wrap a method that a class itself defines; in effect with `apply`."""
        original = vars(kind).get(name)
        if original is not None:
            self._methods.append((kind, name, original, wrapping(original)))

    def inherited(self, kind: type, name: str, wrapping: Wrapping) -> None:
        """Wrap a method that a class has from its base; in effect with `apply`."""
        if name not in vars(kind):
            self._inherited.append((kind, name, wrapping(getattr(kind, name))))

    def apply(self) -> None:
        """Put the wrappers in."""
        _exchange({key: new for key, (_, new) in self._functions.items()})
        for kind, name, _, new in self._methods:
            setattr(kind, name, new)
        for kind, name, new in self._inherited:
            setattr(kind, name, new)

    def undo(self) -> None:
        """Give back what stood there, but leave alone what somebody else has replaced since."""
        _exchange({id(new): old for old, new in self._functions.values()})
        for kind, name, old, new in self._methods:
            if vars(kind).get(name) is new:
                setattr(kind, name, old)
        for kind, name, new in self._inherited:
            if vars(kind).get(name) is new:
                delattr(kind, name)


_without: dict[str, int] = {}  # modules that held none of the functions → how many names they had


def _exchange(by_id: dict[int, Any]) -> None:
    """A module that held none is looked through again once it has another number of names; the user's own always."""
    for module_name, module in sys.modules.copy().items():  # in one step: another thread may be importing
        names = getattr(module, "__dict__", None)
        if type(names) is not dict or _without.get(module_name) == len(names):
            continue
        held = [name for name, value in names.copy().items() if id(value) in by_id]
        for name in held:
            names[name] = by_id[id(names[name])]
        if not held and module_name not in ("__main__", "__mp_main__"):
            _without[module_name] = len(names)
        elif held:
            _without.pop(module_name, None)
