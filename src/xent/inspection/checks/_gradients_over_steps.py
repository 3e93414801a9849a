"""Gradients that live longer than the step they belong to."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._events import BackwardCall, GradientEvent, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run, described

_WATCHED = 8  # parameters of an optimizer that are looked at, evenly spread


@dataclass(eq=False)
class _Gradient:
    """One parameter's gradient: where it lay and its version after a step used it, and whether more was added."""

    parameter: weakref.ref[Tensor]
    used: tuple[int, int] | None = None
    added_to: bool = False


class _StaleGradients(Watcher):
    """Gradients that a step used, that nobody cleared, that a backward added to, and whose sum a step used."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._gradients: dict[int, list[_Gradient]] = {}  # by the optimizer's id
        self._steps_again = False

    def at_wake(self) -> None:
        self._gradients.clear()

    def at_backward(self, backward: BackwardCall) -> None:
        if backward.is_grad:
            return
        for gradients in self._gradients.values():
            for each in gradients:
                if each.used is not None and _state(each.parameter()) != each.used:  # cleared, or changed by hand
                    each.used, each.added_to = None, False

    def after_backward(self, backward: BackwardCall) -> None:
        if backward.is_grad:
            return
        for gradients in self._gradients.values():
            for each in gradients:
                if each.used is not None:
                    state = _state(each.parameter())
                    if state != each.used:
                        each.used, each.added_to = state, True

    def at_gradients(self, event: GradientEvent) -> None:
        if event.kind != "zero_grad":
            return
        ids = {id(parameter) for parameter in event.parameters}
        for key, gradients in self._gradients.items():
            for each in gradients:
                if key == id(event.optimizer) or id(each.parameter()) in ids:
                    each.used, each.added_to = None, False

    def after_step(self, step: OptimizerStep) -> Iterator[Found]:
        gradients = self._of(step.optimizer)
        self._steps_again = self._steps_again or step.number > 1
        stale = [each for each in gradients if each.added_to]
        if stale:
            yield self._found(step, stale[0].parameter())
        for each in gradients:
            each.used, each.added_to = _state(each.parameter()), False

    def at_end(self) -> None:
        if not self._steps_again:
            raise NotChecked("no optimizer made two steps")

    def _of(self, optimizer: Optimizer) -> list[_Gradient]:
        known = self._gradients.get(id(optimizer))
        if known is None or (known and known[0].parameter() is None):
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            every = max(1, len(parameters) // _WATCHED)
            known = [_Gradient(weakref.ref(each)) for each in parameters[::every]]
            self._gradients[id(optimizer)] = known
        return known

    def _found(self, step: OptimizerStep, parameter: Tensor | None) -> Found:
        name = "" if parameter is None else described(parameter, self.run.parameter_names())
        return Found(
            message=f"step {step.number} moved {name} along the sum of its own gradient and those of the steps before: "
            "nothing cleared .grad after they were used, so backward() added to them.",
            fix="call optimizer.zero_grad() before each backward() (once a step where you accumulate on purpose)",
            proof=f"the version of {name}.grad: used by a step, unchanged until backward() added to it, used again",
            values={"step": step.number},
        )


def _state(parameter: Tensor | None) -> tuple[int, int] | None:
    """Where a gradient lies and how often it was written to; None where there is none."""
    gradient = None if parameter is None else parameter.grad
    return None if gradient is None or gradient.is_sparse else (gradient.data_ptr(), gradient._version)


RULES = (
    Rule(
        slug="stale-gradients",
        severity="error",
        certainty="proof",
        title="gradients of earlier steps are still there and are added to",
        needs=("two steps of one optimizer",),
        watcher=_StaleGradients,
        example="""
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
for _ in range(3):
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
        corrected="""
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
    ),
)
