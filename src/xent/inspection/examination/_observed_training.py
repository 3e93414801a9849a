"""Backward passes, optimizers, clipping and gradient scaling, seen when they happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from xent.inspection.examination import _sessions
from xent.inspection.examination._events import BackwardCall, GradientEvent, OptimizerStep
from xent.inspection.examination._patches import as_original
from xent.inspection.examination._session import Session, is_sampled

Function = Callable[..., Any]


def observed_tensor_backward(original: Function) -> Function:
    """Wrap `Tensor.backward`."""

    @as_original(original)
    def backward(self: Tensor, gradient=None, retain_graph=None, create_graph=False, inputs=None) -> Any:
        if not _sessions.at_work():
            return original(self, gradient, retain_graph, create_graph, inputs)
        event = _Backward((self,), (gradient,), inputs, retain_graph, create_graph)
        event.before()
        _sessions.enter()
        try:
            result = original(self, gradient, retain_graph, create_graph, inputs)
        finally:
            _sessions.leave()
        event.after()
        return result

    return backward


def observed_backward(original: Function) -> Function:
    """Wrap `torch.autograd.backward`."""

    @as_original(original)
    def backward(
        tensors, grad_tensors=None, retain_graph=None, create_graph=False, grad_variables=None, inputs=None
    ) -> Any:
        if not _sessions.at_work():
            return original(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
        event = _Backward(_tuple(tensors), _tuple(grad_tensors), inputs, retain_graph, create_graph)
        event.before()
        _sessions.enter()
        try:
            result = original(tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs)
        finally:
            _sessions.leave()
        event.after()
        return result

    return backward


def observed_grad(original: Function) -> Function:
    """Wrap `torch.autograd.grad`."""

    @as_original(original)
    def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not _sessions.at_work():
            return original(outputs, inputs, grad_outputs, *args, **kwargs)
        retain = kwargs.get("retain_graph", args[0] if args else None)
        create = kwargs.get("create_graph", args[1] if len(args) > 1 else False)
        event = _Backward(_tuple(outputs), _tuple(grad_outputs), inputs, retain, create, is_grad=True)
        event.before()
        _sessions.enter()
        try:
            result = original(outputs, inputs, grad_outputs, *args, **kwargs)
        finally:
            _sessions.leave()
        event.after()
        return result

    return grad


def _tuple(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    if isinstance(given, Tensor):
        return (given,)
    try:
        return tuple(given)
    except TypeError:
        return ()


class _Backward:
    """One backward pass, told to every session before and after."""

    def __init__(
        self, roots: tuple[Any, ...], gradients: tuple[Any, ...], inputs: Any, retain: Any, create: Any,
        *, is_grad: bool = False,
    ) -> None:  # fmt: skip
        self._events: list[tuple[Session, BackwardCall]] = []
        listening = [(session, sampled) for session in _sessions.all_sessions()
                     if (sampled := session.backward_begins()) or session.hears_backwards]  # fmt: skip
        if not listening:
            return
        tensors = tuple(root for root in roots if isinstance(root, Tensor))
        named = None if inputs is None else tuple(each for each in _tuple(inputs) if isinstance(each, Tensor))
        frame = _sessions.caller()
        for session, sampled in listening:
            place = session.place(frame)
            self._events.append((session, BackwardCall(
                roots=tensors, gradients=gradients, inputs=named, is_grad=is_grad, retain_graph=bool(retain),
                create_graph=bool(create), site=place.site, number=place.number, sampled=sampled,
            )))  # fmt: skip

    def before(self) -> None:
        for session, event in self._events:
            if event.sampled or "at_backward" in session.heard:
                with _sessions.quiet() if event.sampled else _sessions.busy():
                    session.backward(event)

    def after(self) -> None:
        for session, event in self._events:
            event.roots = event.gradients = ()
            event.inputs = None if event.inputs is None else ()
            if "after_backward" in session.heard:
                with _sessions.quiet() if event.sampled else _sessions.busy():
                    session.tell("after_backward", event)


def observed_optimizer(original: Function) -> Function:
    """Wrap `Optimizer.__init__`: optimizers are known from the line that makes them."""

    @as_original(original)
    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        sessions = _sessions.at_work()
        if sessions:
            frame = _sessions.caller()
            for session in sessions:
                session.run.facts_of(self, session.known_site(frame))

    return __init__


def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """A global hook of torch's optimizers."""
    del args, kwargs
    for session in _sessions.at_work():
        facts = session.run.facts_of(optimizer)
        facts.num_steps += 1
        session.step_begins()
        if facts.site is None or "at_step" in session.heard:
            _tell_of_step(session, optimizer, "at_step")


def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """A global hook of torch's optimizers."""
    del args, kwargs
    for session in _sessions.at_work():
        if "after_step" in session.heard:
            _tell_of_step(session, optimizer, "after_step")
        session.step_ends()


def _tell_of_step(session: Session, optimizer: Optimizer, method: Literal["at_step", "after_step"]) -> None:
    facts = session.run.facts_of(optimizer)
    site = session.known_site(_sessions.caller())
    facts.site = facts.site or site
    event = OptimizerStep(optimizer=optimizer, number=facts.num_steps, site=site, sampled=is_sampled(facts.num_steps))
    with _sessions.quiet() if event.sampled else _sessions.busy():
        session.tell(method, event)


def observed_zero_grad(original: Function) -> Function:
    """Wrap `Optimizer.zero_grad`."""

    @as_original(original)
    def zero_grad(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        _gradients("zero_grad", optimizer=self)
        return original(self, *args, **kwargs)

    return zero_grad


def observed_module_zero_grad(original: Function) -> Function:
    """Wrap `Module.zero_grad`."""

    @as_original(original)
    def zero_grad(self: Module, *args: Any, **kwargs: Any) -> Any:
        _gradients("zero_grad", module=self)
        return original(self, *args, **kwargs)

    return zero_grad


def observed_clip(original: Function) -> Function:
    """Wrap `clip_grad_norm_` or `clip_grad_value_`."""

    @as_original(original)
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not _sessions.at_work():
            return original(parameters, *args, **kwargs)
        given = parameters if isinstance(parameters, Tensor) else list(parameters)  # it may be a generator
        _gradients("clip", parameters=_tuple(given))
        return original(given, *args, **kwargs)

    return clip


def observed_scaler(kind: Literal["unscale", "scaler_step"]) -> Callable[[Function], Function]:
    """Wrap `GradScaler.unscale_` or `.step`."""

    def wrap(original: Function) -> Function:
        @as_original(original)
        def scaled(self: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            _gradients(kind, optimizer=optimizer, scaler=self)
            return original(self, optimizer, *args, **kwargs)

        return scaled

    return wrap


def _gradients(
    kind: Literal["zero_grad", "clip", "unscale", "scaler_step"], *, module: Module | None = None, **given: Any
) -> None:
    sessions = _sessions.at_work()
    if not sessions:
        return
    listening = [session for session in sessions if "at_gradients" in session.heard]
    if not listening:
        return
    if module is not None:
        given["parameters"] = tuple(module.parameters())
    frame = _sessions.caller()
    for session in listening:
        event = GradientEvent(kind=kind, site=session.known_site(frame), **given)
        with _sessions.busy():
            session.tell("at_gradients", event)
