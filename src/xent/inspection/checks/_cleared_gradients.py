"""Gradients that are cleared between `backward()` and the step that should use them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, GradientEvent, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

_WATCHED = 8  # parameters of an optimizer that are looked at, evenly spread
_ENOUGH = 2  # steps without a gradient


@dataclass(eq=False)
class _Steps:
    """The steps of one optimizer that were looked at.

    Attributes:
        cleared_at: the line that cleared its gradients after the last backward; None where none did.
        is_cleared: whether one did.
        empty, used: steps that had no gradient because of that, and all others.
    """

    optimizer: weakref.ref[Optimizer]
    parameters: list[weakref.ref[Tensor]]
    cleared_at: CallSite | None = None
    is_cleared: bool = False
    empty: int = 0
    used: int = 0

    def gradients(self) -> list[Tensor]:
        """Of those parameters that have one."""
        living = [parameter for reference in self.parameters if (parameter := reference()) is not None]
        return [parameter.grad for parameter in living if parameter.grad is not None]

    def are_in(self, event: GradientEvent) -> bool:
        """Whether the event clears all of them."""
        if event.optimizer is not None:
            return event.optimizer is self.optimizer()
        given = {id(each) for each in event.parameters}
        return all(id(each()) in given for each in self.parameters)


class _ClearedBeforeStep(Watcher):
    """From the second step of an optimizer on: zero_grad() after the last backward, and then a step of nothing."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._steps: dict[int, _Steps] = {}

    def at_wake(self) -> None:
        for steps in self._steps.values():
            steps.is_cleared = False

    def after_backward(self, backward: BackwardCall) -> None:
        if not backward.is_grad:
            for steps in self._steps.values():
                steps.is_cleared = False

    def at_gradients(self, event: GradientEvent) -> None:
        if event.kind != "zero_grad":
            return
        for steps in self._steps.values():
            if not steps.is_cleared and not steps.used and steps.are_in(event) and steps.gradients():
                steps.is_cleared, steps.cleared_at = True, event.site

    def after_step(self, step: OptimizerStep) -> None:
        steps = self._steps.get(id(step.optimizer))
        if steps is None or steps.optimizer() is not step.optimizer:
            every = max(1, len(step.parameters) // _WATCHED)
            chosen = [weakref.ref(each) for each in step.parameters[::every]]
            self._steps[id(step.optimizer)] = _Steps(weakref.ref(step.optimizer), chosen)
        elif steps.is_cleared and not any(gradient.is_sparse or bool(gradient.any()) for gradient in steps.gradients()):
            steps.empty += 1
        else:
            steps.used += 1

    def at_end(self) -> Iterator[Found]:
        if not any(steps.empty or steps.used for steps in self._steps.values()):
            raise NotChecked("no optimizer made two steps")
        for steps in self._steps.values():
            if steps.empty >= _ENOUGH and not steps.used:
                yield _found(steps)


def _found(steps: _Steps) -> Found:
    optimizer = steps.optimizer()
    name = "the optimizer" if optimizer is None else type(optimizer).__name__
    return Found(
        message=f"zero_grad() clears what backward() has just computed, before {name} uses it: none of the "
        f"{steps.empty} steps that were looked at had a gradient, so that nothing is learned.",
        fix="the order is: optimizer.zero_grad(), loss.backward(), optimizer.step()",
        proof="between the last backward() and step() zero_grad() was called, and .grad was None or 0 at the step",
        values={"steps": steps.empty},
        site=steps.cleared_at,
    )


_LOOP = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
for _ in range(4):
    loss = F.cross_entropy(model(x), y)
    {}
    optimizer.step()
"""

RULES = (
    Rule(
        slug="gradients-cleared-before-step",
        severity="error",
        certainty="proof",
        title="zero_grad() between backward() and step(): nothing is learned",
        needs=("three steps of one optimizer",),
        watcher=_ClearedBeforeStep,
        example=_LOOP.format("loss.backward()\n    optimizer.zero_grad()"),
        corrected=_LOOP.format("optimizer.zero_grad()\n    loss.backward()"),
    ),
)
