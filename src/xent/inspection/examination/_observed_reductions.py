"""`Tensor.mean` and `Tensor.sum` where they end a loss that is written by hand; writes into logits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from xent.inspection.examination import _sessions
from xent.inspection.examination._events import Reduction, Write
from xent.inspection.examination._session import is_sampled

# The names of nodes that a picked log-probability ends with; a mean of anything else costs one look at its name.
_ENDS = ("IndexBackward0", "GatherBackward0", "NegBackward0", "SqueezeBackward1", "LogBackward0")


def observed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a reduction."""

    @functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))
    def reduction(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        node = self.grad_fn if type(self) is Tensor else None
        if node is not None and node.name() in _ENDS and _sessions.at_work():
            _tell(output)
        return output

    return reduction


def _tell(output: Tensor) -> None:
    if not isinstance(output, Tensor) or output.ndim:
        return
    frame = _sessions.caller()
    for session in _sessions.all_sessions():
        if "at_reduction" not in session.heard:
            continue
        place = session.place(frame)
        if is_sampled(place.number):
            with _sessions.quiet():
                session.tell("at_reduction", Reduction(output=output, site=place.site, number=place.number))


def observed_write(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `x[…] = …`: told where x is a tensor that a rule looks at."""

    @functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))
    def write(self: Tensor, key: Any, value: Any) -> None:
        original(self, key, value)
        for session in _sessions.at_work():
            if id(self) in session.run.looked_at:
                with _sessions.quiet():
                    session.tell("at_write", Write(tensor=self, site=session.known_site(_sessions.caller())))

    return write
