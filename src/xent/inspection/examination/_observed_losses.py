"""Calls of loss functions, seen when they return or raise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import handle_torch_function, has_torch_function

from xent.inspection.examination import _sessions
from xent.inspection.examination._arguments import bound
from xent.inspection.examination._batch_sizes import BatchSizes
from xent.inspection.examination._call_site import user_frame
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._from_graph import mark_as_seen
from xent.inspection.examination._patches import as_original, unseen_by_warnings
from xent.inspection.examination._session import Place, Session, is_sampled

Origin = Literal["torch", "xent"]


def observed(name: str, origin: Origin) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap a loss function."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @as_original(original)
        def observed_loss(*args: Any, **kwargs: Any) -> Any:
            if not _sessions.at_work() or _is_traced(frame := sys._getframe(1)) or _stands_in(args, kwargs):
                return _plain(original, args, kwargs)
            call = _Observed(name, origin, original, args, kwargs)
            call.came_from(user_frame(frame))
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


def _stands_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the input is no tensor but acts as one, as logits that nobody has made: what it calls is observed."""
    input = args[0] if args else kwargs.get("input")
    return not isinstance(input, Tensor) and hasattr(type(input), "__torch_function__")


@unseen_by_warnings
def _plain(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function itself; subclasses and modes are shown the original, which they may know by identity."""
    if torch.compiler.is_dynamo_compiling():
        return original(*args, **kwargs)
    if original.__module__.startswith("torch") and has_torch_function((*args, *kwargs.values())):
        asked = tuple(value for value in (*args, *kwargs.values()) if hasattr(type(value), "__torch_function__"))
        return handle_torch_function(original, asked, *args, **kwargs)
    return original(*args, **kwargs)


class _Observed:
    """One call, told to every session."""

    __slots__ = (
        "_args", "_dims", "_graded", "_input", "_kwargs", "_name", "_origin", "_original", "_places",
        "on_accelerator",
    )  # fmt: skip

    def __init__(
        self, name: str, origin: Origin, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._name = name
        self._origin: Origin = origin
        self._original, self._args, self._kwargs = original, args, kwargs
        self._graded = torch.is_grad_enabled()
        self._places: list[tuple[Session, Place, int]] = []
        input = args[0] if args else kwargs.get("input")
        if isinstance(input, Tensor):
            self._input, self._dims, self.on_accelerator = input, input.dim(), not input.is_cpu
        else:
            self._input, self._dims, self.on_accelerator = None, -1, False

    def came_from(self, frame: FrameType | None) -> None:
        """Which line it is a call of, and the how manieth."""
        for session in _sessions.all_sessions():
            place = session.place(frame)
            self._places.append((session, place, place.number))  # another thread may be at the same line

    def before(self) -> None:
        """On an accelerator."""
        due = [each for each in self._places if is_sampled(each[2])]
        for session, call in self._calls(due, None, None):
            with _sessions.quiet():
                session.about_to_call(call)

    def after(self, output: Any, error: BaseException | None) -> None:
        """It returned or raised."""
        loss = output[0] if isinstance(output, tuple) else output
        loss = loss if isinstance(loss, Tensor) else None
        is_nan = loss is not None and _is_nan(loss)
        graded = loss is not None and loss.requires_grad  # its grad_fn is not asked for: that makes an object of it
        due: list[tuple[Session, Place, int]] | None = None
        for each in self._places:
            session, place, number = each
            session.run.num_calls[self._name] += 1
            surprising = place.is_surprising(self._dims, is_nan=is_nan)
            if surprising or error is not None or is_sampled(number):
                due = [*(due or ()), each]
            if graded:
                if session.reads_next_graph and loss is not None and loss.grad_fn is not None:
                    mark_as_seen(loss)
                self._count(session, place)
        for session, call in self._calls(due, loss, error) if due else ():
            with _sessions.quiet():
                session.loss_called(call)

    def _count(self, session: Session, place: Place) -> None:
        """The rows of a call to train on, if their mean is its loss."""
        if not place.was_asked:
            place.was_asked, place.batches = True, self._counter(session, place)
        if place.batches is not None and (not self._kwargs or self._kwargs.get("reduction", "mean") == "mean"):
            run = session.run
            place.batches.add(self._input.size(0), run.num_backwards, run.num_steps)  # type: ignore[union-attr]

    def _counter(self, session: Session, place: Place) -> BatchSizes | None:
        site, input, batches = place.site, self._input, session.run.batches
        if site is None or input is None or self._dims < 2 or is_functorch_wrapped_tensor(input):
            return None
        if bound(self._original, self._args, self._kwargs).get("reduction", "mean") != "mean":
            return None
        return batches.setdefault(site, BatchSizes(site, input.shape[0]))

    def _calls(
        self, due: list[tuple[Session, Place, int]], loss: Tensor | None, error: BaseException | None
    ) -> Iterator[tuple[Session, LossCall]]:
        arguments = bound(self._original, self._args, self._kwargs)
        for session, place, number in due:
            yield session, LossCall(name=self._name, origin=self._origin, arguments=arguments, output=loss,
                                    error=error, site=place.site, number=number, grad_enabled=self._graded)  # fmt: skip


def _is_nan(loss: Tensor) -> bool:
    """Whether it can be read without waiting for a device or being seen by a mode, and is NaN."""
    if type(loss) is not Tensor or not loss.is_cpu or loss.dim() or is_functorch_wrapped_tensor(loss):
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._is_torch_function_mode_enabled():
        return False
    value = loss.item()
    return value != value
