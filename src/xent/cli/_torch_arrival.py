"""Something to do when the program imports torch: not before, because a program may set torch's environment first."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Finder(MetaPathFinder):
    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None:
            self._after_execution_of(spec.loader)
        return spec

    def _after_execution_of(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_then(module: ModuleType) -> None:
            del loader.exec_module  # the class's own again
            execute(module)
            self._then()

        loader.exec_module = execute_and_then


def when_torch_arrives(then: Callable[[], None]) -> None:
    """Call `then` once torch is imported: at once if it is."""
    if "torch" in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Finder(then))
