"""Calls of loss functions, seen when they return or raise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from xent.inspection.examination import _sessions
from xent.inspection.examination._arguments import bound
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._from_graph import mark_as_seen
from xent.inspection.examination._patches import as_original, unseen_by_warnings
from xent.inspection.examination._session import Session, is_sampled

Origin = Literal["torch", "xent"]


def observed(name: str, origin: Origin) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap a loss function."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @as_original(original)
        def observed_loss(*args: Any, **kwargs: Any) -> Any:
            if not _sessions.at_work() or _is_traced(sys._getframe(1)):
                return _plain(original, args, kwargs)
            call = _Observed(name, origin, original, args, kwargs)
            if call.on_accelerator:
                call.before()
            _sessions.enter()
            try:
                output = _plain(original, args, kwargs)
            except Exception as error:
                call.after(None, error)
                raise
            finally:
                _sessions.leave()
            call.after(output, None)
            return output

        observed_loss.__script_if_tracing_wrapper = True  # type: ignore[attr-defined]  (torch.jit.script takes
        observed_loss.__original_fn = original  # type: ignore[attr-defined]             the original then)
        return observed_loss

    return wrap


def _is_traced(frame: FrameType) -> bool:
    """The code that torch.fx writes for a graph calls losses by name: nobody's line."""
    return frame.f_code.co_filename.startswith("<eval_with_key>")


@unseen_by_warnings
def _plain(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function itself; subclasses and modes are shown the original, which they may know by identity."""
    if torch.compiler.is_dynamo_compiling():
        return original(*args, **kwargs)
    tensors = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    if has_torch_function(tensors) and original.__module__.startswith("torch"):
        return handle_torch_function(original, tensors, *args, **kwargs)
    return original(*args, **kwargs)


class _Observed:
    """One call, told to every session."""

    def __init__(
        self, name: str, origin: Origin, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._name = name
        self._origin: Origin = origin
        self._original, self._args, self._kwargs = original, args, kwargs
        self._graded = torch.is_grad_enabled()
        frame = _sessions.caller()
        self._places = [(session, session.place(frame)) for session in _sessions.all_sessions()]
        self._numbers = [place.number for _, place in self._places]  # another thread may be at the same line
        self._is_due = any(session.hears_every_call or session.reads_next_graph or is_sampled(place.number)
                           for session, place in self._places)  # fmt: skip
        self.on_accelerator = self._is_due and any(isinstance(each, Tensor) and not each.is_cpu for each in args)

    def before(self) -> None:
        """On an accelerator."""
        for session, call in self._calls(None, None):
            with _sessions.quiet():
                session.about_to_call(call)

    def after(self, output: Any, error: BaseException | None) -> None:
        """It returned or raised."""
        if not self._is_due and error is None:
            for session, _ in self._places:
                session.run.num_calls[self._name] += 1
            return
        loss = output[0] if isinstance(output, tuple) else output
        loss = loss if isinstance(loss, Tensor) else None
        reads_graph = False
        for session, _ in self._places:
            session.run.num_calls[self._name] += 1
            reads_graph = reads_graph or session.reads_next_graph
        if reads_graph and loss is not None and loss.grad_fn is not None:
            mark_as_seen(loss)
        for session, call in self._calls(loss, error):
            with _sessions.quiet():
                session.loss_called(call)

    def _calls(self, loss: Tensor | None, error: BaseException | None) -> Iterator[tuple[Session, LossCall]]:
        arguments: dict[str, Any] | None = None
        for (session, place), number in zip(self._places, self._numbers, strict=True):
            sampled = error is not None or is_sampled(number)
            if not sampled and not session.hears_every_call:
                continue
            if arguments is None:
                arguments = bound(self._original, self._args, self._kwargs)
            yield session, LossCall(name=self._name, origin=self._origin, arguments=arguments, output=loss,
                                    error=error, site=place.site, number=number, sampled=sampled,
                                    grad_enabled=self._graded)  # fmt: skip
