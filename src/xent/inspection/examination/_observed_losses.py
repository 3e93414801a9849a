"""Calls of loss functions, seen when they return or raise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from xent.inspection.examination import _sessions
from xent.inspection.examination._arguments import bound
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._from_graph import mark_as_seen
from xent.inspection.examination._session import is_sampled

Origin = Literal["torch", "xent"]


def observed(name: str, origin: Origin) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wrap a loss function."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original, assigned=("__name__", "__qualname__", "__doc__"))
        def observed_loss(*args: Any, **kwargs: Any) -> Any:
            if not _sessions.at_work():
                return _plain(original, args, kwargs)
            _sessions.enter()
            try:
                output = _plain(original, args, kwargs)
            except Exception as error:
                _loss_called(name, origin, original, args, kwargs, None, error)
                raise
            finally:
                _sessions.leave()
            _loss_called(name, origin, original, args, kwargs, output, None)
            return output

        observed_loss.__script_if_tracing_wrapper = True  # type: ignore[attr-defined]  (torch.jit.script takes
        observed_loss.__original_fn = original  # type: ignore[attr-defined]             the original then)
        return observed_loss

    return wrap


def _plain(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function itself; subclasses and modes are shown the original, which they may know by identity."""
    if torch.compiler.is_compiling():
        return original(*args, **kwargs)
    tensors = tuple(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    if has_torch_function(tensors) and original.__module__.startswith("torch"):
        return handle_torch_function(original, tensors, *args, **kwargs)
    return original(*args, **kwargs)


def _loss_called(
    name: str, origin: Origin, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
    output: Any, error: BaseException | None,
) -> None:  # fmt: skip
    frame, graded = _sessions.caller(), torch.is_grad_enabled()
    loss = output[0] if isinstance(output, tuple) else output
    loss = loss if isinstance(loss, Tensor) else None
    if loss is not None and loss.grad_fn is not None:
        mark_as_seen(loss)
    sessions = _sessions.all_sessions()
    arguments: dict[str, Any] | None = None
    for session in sessions:
        place = session.place(frame)
        session.run.num_calls[name] += 1
        sampled = error is not None or is_sampled(place.number)
        if not sampled and not session.hears_every_call:
            continue
        if arguments is None:
            arguments = bound(original, args, kwargs)
        call = LossCall(name=name, origin=origin, arguments=arguments, output=loss, error=error, site=place.site,
                        number=place.number, sampled=sampled, grad_enabled=graded)  # fmt: skip
        with _sessions.quiet():
            session.loss_called(call)
