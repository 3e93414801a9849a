"""One run being written down: what its events come to, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from xent.inspection._hooks import ForwardHook, eager, is_nested_step, is_within_step
from xent.inspection.examination import _sessions
from xent.inspection.examination._events import LossCall
from xent.inspection.watching import _listening
from xent.inspection.watching._clock import Clock
from xent.inspection.watching._closures import after_closure
from xent.inspection.watching._first_steps import LAST_STEP, FirstSteps
from xent.inspection.watching._layer_norms import LayerNorms
from xent.inspection.watching._loss_numbers import Ruler
from xent.inspection.watching._micro_batches import MicroBatches
from xent.inspection.watching._row_tables import Names, RowTable, table_of
from xent.inspection.watching._sampled_ledger import SampledLedger
from xent.inspection.watching._schedule import Schedule
from xent.inspection.watching._subjects import Subjects
from xent.inspection.watching._writer import RecordWriter

Method = TypeVar("Method", bound=Callable[..., Any])
_HOOKS = 20e-6  # seconds that the hooks of a recorded step take beside what is measured of them


def _without_harm(method: Method) -> Method:
    """An event whose account fails stops the recording, with one warning, and not the training."""

    @wraps(method)
    def event(self: Recording, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if self.strict:
                raise
            self.fail(error)
            return None

    return event  # type: ignore[return-value]


class Recording:
    """Listens to one run, and writes.

    Attributes:
        thread: the only thread it listens to; None for all.
        step: optimizer steps so far.
        strict: whether a fault of the recording itself is raised; for tests.
    """

    strict = False

    def __init__(self, subjects: Subjects, writer: RecordWriter, schedule: Schedule, names: Names) -> None:
        self.subjects, self.writer, self.schedule, self.names = subjects, writer, schedule, names
        self.thread: int | None = threading.get_ident()
        self.step = 0
        self.listeners: list[Any] = []  # each is given every record that is written
        self._first_steps: FirstSteps | None = None
        self._ruler = Ruler()
        self._stack = ExitStack()
        self._due: tuple[str, ...] = ()
        self._hooks: list[Any] = []
        self._is_awake = False  # whether it is armed for the step that is going on
        self._inside = 0  # steps that an optimizer's step makes in turn, or a closure's losses
        self._forget_step()

    def _forget_step(self) -> None:
        self._batches, self._clock = MicroBatches(), Clock()
        self._table: RowTable | None = None
        self._inputs: Tensor | None = None
        self._norms: LayerNorms | None = None
        self._ledger: SampledLedger | None = None
        self._forward_depth, self._forwards, self._saw_loss, self._evaluated = 0, 0, False, False

    # beginning and ending

    def begin(self, *, examined: bool) -> None:
        """Listen from here on; the next step is recorded."""
        _listening.begin(self)
        self._leave_out_shards()
        if examined and not self.subjects.are_sharded:  # after our own wrappers, because it is done before them
            self._first_steps = FirstSteps(self.subjects, self.write)
        for optimizer in self.subjects.optimizers:
            self._hear(optimizer)
        self._prepare()

    def leave_out_time(self) -> None:
        """What the program did since the last event, and does up to the next one, is no part of a step."""
        self._clock.wait()

    @_without_harm
    def adopt(self, optimizer: Optimizer) -> None:
        """Hear an optimizer from its step on that begins, in a global hook: torch calls its own hooks after those."""
        self._hear(optimizer)
        self._leave_out_shards()
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _leave_out_shards(self) -> None:
        """Norms, rows and ledger of DTensors would need all ranks at once; watching sends nothing."""
        if self.subjects.are_sharded:
            self.schedule.kinds = tuple(kind for kind in self.schedule.kinds if kind == "plain")
            self._due = tuple(kind for kind in self._due if kind == "plain")

    def _hear(self, optimizer: Optimizer) -> None:
        self._stack.callback(optimizer.register_step_pre_hook(eager(self._step_begins)).remove)
        self._stack.callback(optimizer.register_step_post_hook(eager(self._step_ended)).remove)

    def end(self) -> None:
        """Hear no more."""
        self._rest()
        self._conclude_first_steps()
        self._stack.close()
        _listening.end(self)

    def _conclude_first_steps(self) -> None:
        if self._first_steps is not None:
            first_steps, self._first_steps = self._first_steps, None
            first_steps.conclude(self.step)

    def fail(self, error: Exception) -> None:
        """The recording itself went wrong: it ends here."""
        self.writer.stop(f"{type(error).__name__}: {error}", "a fault of xent's own, which asks to be reported")
        with suppress(Exception):
            self._rest()

    def write(self, kind: str, **fields: Any) -> None:
        """Write a record, and give it to whoever listens to records."""
        record = {"kind": kind, **fields}
        self.writer.write(record)
        for listener in self.listeners:
            listener(record)

    def has(self, optimizer: Any) -> bool:
        """Whether an optimizer is one of this run's."""
        inner = getattr(optimizer, "optimizer", optimizer)
        return any(each is inner or each is optimizer for each in self.subjects.optimizers)

    # whether the next step is recorded

    def _prepare(self) -> None:
        """Arm for the next step, or rest until one is due."""
        self._due = () if self.writer.stopped else self.schedule.due(self.step + 1, self.writer.thinning)
        if not self._due:
            if self._is_awake:
                self._rest()
            return
        self._is_awake = True
        self._forget_step()
        _listening.wake(self)
        if not self._hooks:
            for model in self.subjects.models:
                begins, ended = ForwardHook(self._forward_begins), ForwardHook(self._forward_ended)
                self._hooks.append(model.register_forward_pre_hook(begins, with_kwargs=True))
                self._hooks.append(model.register_forward_hook(ended))
        self._clock.rest("plain")
        if "ledger" in self._due:
            self._ledger = SampledLedger.begun(self.subjects)
            self._clock.rest("ledger")

    def _rest(self) -> None:
        """Hear nothing but the ends of steps."""
        self._is_awake = False
        if self._ledger is not None:
            self._ledger.stop()
        if self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()
        _listening.sleep(self)
        self._forget_step()

    # events

    @_without_harm
    def _forward_begins(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_dynamo_compiling() or not torch.is_grad_enabled() or not self._is_here():
            return
        self._forward_depth += 1
        if self._forward_depth > 1:
            return
        self._clock.until(time.perf_counter(), "data" if not self._forwards else "other")
        self._forwards += 1
        if "rows" in self._due and self._inputs is None:
            given = [*args, *kwargs.values()]
            self._inputs = given[0].detach() if given and isinstance(given[0], Tensor) else None

    @_without_harm
    def _forward_ended(self, model: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_dynamo_compiling() or not self._forward_depth or not self._is_here():
            return
        self._forward_depth -= 1
        if not self._forward_depth:
            self._clock.until(time.perf_counter(), "forward")

    def _is_here(self) -> bool:
        return self.thread is None or self.thread == threading.get_ident()

    @_without_harm
    def loss_called(self, call: LossCall, began: float, ended: float) -> None:
        """A loss was computed."""
        if self._inside and not is_within_step(self.has):
            self._leave_out_failed_step()
        self._clock.until(began, "other")
        self._clock.until(ended, "loss")
        self._forward_depth = 0  # a forward that raised left it open
        if self._evaluated:  # a closure's further evaluations are of the same rows
            return
        self._saw_loss = True
        with _sessions.quiet():
            self._batches.add(call, self._ruler)
            self._clock.rest("plain")
            if "rows" in self._due and self._table is None:
                self._table = table_of(call)
                self._clock.rest("rows")

    @_without_harm
    def backward_begins(self, roots: Any, began: float) -> None:
        """A backward pass is about to run."""
        self._clock.until(began, "other")
        if not self._evaluated:
            with _sessions.quiet():
                self._batches.close(roots)
        self._clock.rest("plain")

    @_without_harm
    def backward_ended(self, began: float, ended: float) -> None:
        """It ran."""
        self._clock.until(ended, "backward")
        self._forwards, self._evaluated = 0, self._inside > 0

    @_without_harm
    def was_elsewhere(self, began: float, ended: float) -> None:
        """Gradients were cleared."""
        self._clock.until(began, "data" if not self._saw_loss else "other")
        self._clock.until(ended, "other")

    @_without_harm
    def step_skipped(self) -> None:
        """A GradScaler left a step out: what came before it is no part of the next one."""
        self._rest()
        self._prepare()

    def _leave_out_failed_step(self) -> None:
        """After a step that raised torch calls no hook: the program caught that, and the next step begins anew."""
        self._inside = 0
        self._rest()
        self._prepare()

    def _step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if self._inside and not is_nested_step(self.has):
            self._leave_out_failed_step()
        self._inside += 1
        return self._armed_step_begins(optimizer, args, kwargs) if self._due and self._inside == 1 else None

    @_without_harm
    def _armed_step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        self._clock.until(time.perf_counter(), "other")
        given = None if self._ledger is None else self._ledger.step_begins(optimizer, args, kwargs)
        self._clock.rest("ledger")
        if "layers" in self._due:
            given = after_closure(given or (args, kwargs), lambda: self._take_norms(optimizer)) or given
        return given

    @_without_harm
    def _take_norms(self, optimizer: Optimizer) -> None:
        if self._norms is None and self._due:
            with _sessions.quiet():
                self._norms = self.subjects.norms_of(optimizer)
        self._clock.rest("layers")

    @_without_harm
    def _step_ended(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._inside -= 1
        if self._inside > 0:
            return
        self._inside = 0
        self.step += 1
        if self._due:
            self._clock.until(time.perf_counter(), "step")
            if self._ledger is not None:
                self._ledger.step_ended(optimizer, args, kwargs)
            with _sessions.quiet():
                self._record(optimizer)
        if self.step == self.schedule.first_step:
            self.schedule.began()
        if self.step == self.schedule.first_step + LAST_STEP - 1:
            self._conclude_first_steps()
        self._prepare()

    # what is written

    def _record(self, optimizer: Optimizer) -> None:
        step, clock = self.step, self._clock
        if not self._batches.is_empty or len(self.subjects.optimizers) == 1:
            self.write("step", step=step, **self._batches.to_dict(), ruler=self._ruler.to_dict(),
                       learning_rates=_learning_rates(optimizer), seconds=dict(clock.seconds),
                       rows_per_second=self._batches.rows_in(clock.total), **self._which(optimizer))  # fmt: skip
        self._paid("plain")
        if self._norms is not None:
            self.write("layers", step=step, layers=self._norms.after())
            self._paid("layers")
        if "rows" in self._due:
            for record in self._table.records(self.names, self._inputs) if self._table is not None else ():
                self.write(step=step, **record)
            self._paid("rows")
        if self._ledger is not None:
            self._ledger.stop()
            self.write("ledger", step=step, ledger=self._ledger.to_dict())
            self._ledger = None
            self._paid("ledger")

    def _which(self, optimizer: Optimizer) -> dict[str, int]:
        optimizers = self.subjects.optimizers
        return {"optimizer": [each is optimizer for each in optimizers].index(True)} if len(optimizers) > 1 else {}

    def _paid(self, kind: str) -> None:
        """Account for all that a record took since the step began."""
        self._clock.rest(kind)
        self.schedule.took(kind, self.step, self._clock.own[kind] + (_HOOKS if kind == "plain" else 0.0))


def _learning_rates(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
