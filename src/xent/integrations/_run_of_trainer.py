"""A trainer's run being watched: it begins and ends where the trainer says so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from xent.inspection import watch
from xent.inspection.watching._watch import Watching


class RunOfTrainer:
    """The watch that a callback holds between the beginning and the end of a training."""

    def __init__(self, out: Any, every: int | None, about: dict[str, Any]) -> None:
        self._out, self._every, self._about = out, every, about
        self._watching: Watching | None = None

    def begin(self, model: Any, optimizers: Any, config: Callable[[], dict[str, Any]]) -> None:
        """Watch a training, unless one is being watched."""
        if self._watching is None:
            about = {"config": config(), **self._about}
            self._watching = watch(model, optimizers, self._out, self._every, **about)  # pyright: ignore[reportArgumentType]
            self._watching.__enter__()

    def evaluation(self, split: str, **numbers: Any) -> None:
        """Write what was measured on other rows."""
        if self._watching is not None:
            self._watching.evaluation(split, **numbers)

    def end(self, error: BaseException | None = None) -> None:
        """Write the last record, once."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.__exit__(None if error is None else type(error), error, None)
            print(f"xent watch: {watching.step:,} steps in {watching.path}", file=sys.stderr)
