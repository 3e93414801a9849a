"""`Rule`: one mistake that can be proved or suspected, as an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xent.inspection.examination._finding import Certainty, Found, Severity

if TYPE_CHECKING:
    from xent.inspection.examination._events import (
        BackwardCall,
        GradientEvent,
        LossCall,
        OptimizerStep,
        Reduction,
        Write,
    )
    from xent.inspection.examination._run import Run

Founds = Iterable[Found] | None
CallCheck = Callable[["LossCall"], Founds]


class Watcher:
    """A rule over one run. It holds numbers and weak references, never a tensor or a graph.

    Every method may return or yield `Found`s, or raise `NotChecked(reason)`.

    Attributes:
        every_step: False for a rule that may sleep: of backwards, steps and gradients it hears at steps 1–6, 10, 11,
            20, 21, 50, 51, … only. A rule may set it on itself; it is read at the next of those steps.
    """

    every_step: bool = True

    def __init__(self, run: Run) -> None:
        self.run = run

    def at_wake(self) -> None:
        """What a rule that may sleep forgets when it hears again: it missed events."""

    def at_loss_call(self, call: LossCall) -> Founds:
        """After the sampled calls of a loss function."""

    def at_reduction(self, reduction: Reduction) -> Founds:
        """When `mean()` or `sum()` makes a number of what was picked from a table, at sampled calls: a loss by hand."""

    def at_write(self, write: Write) -> Founds:
        """After `x[…] = …` on a tensor whose id is in `run.looked_at`."""

    def at_backward(self, backward: BackwardCall) -> Founds:
        """Before every backward() or autograd.grad(): the graph is still whole."""

    def after_backward(self, backward: BackwardCall) -> Founds:
        """After it: the gradients are there."""

    def at_step(self, step: OptimizerStep) -> Founds:
        """Before every optimizer step."""

    def after_step(self, step: OptimizerStep) -> Founds:
        """After it."""

    def at_gradients(self, event: GradientEvent) -> Founds:
        """When gradients are cleared, clipped or unscaled."""

    def at_end(self) -> Founds:
        """Once, when the program or the block ends.

        Raise `NotChecked(reason)` here if the run never showed what the rule needs.
        """


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One mistake.

    Attributes:
        slug: its public, stable name.
        severity: "error", "warning" or "info".
        certainty: the best that it can give; a `Found` may lower it.
        title: one line.
        functions: losses it applies to ("cross_entropy", …); a run without a call of one leaves the rule unchecked.
        needs: what must be there for it, in words ("a graph", "values that can be read", …).
        at_loss_call: judges one call of a loss.
        at_error: judges a call at which torch raised (`call.error`), beside which the report prints what it finds; a
            call that torch let pass counts as checked if there is no `at_loss_call`.
        before_call: judges a call on an accelerator before its kernel runs, at sampled calls: a kernel that is given a
            wrong class index there ends the process.
        watcher: makes the judge of a run.
        example: a mistaken program of a few lines that runs and gives this finding.
        corrected: the same, mended: runs and gives none.
    """

    slug: str
    severity: Severity
    certainty: Certainty
    title: str
    functions: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    at_loss_call: CallCheck | None = None
    at_error: CallCheck | None = None
    before_call: CallCheck | None = None
    watcher: Callable[[Run], Watcher] | None = None
    example: str = ""
    corrected: str = ""
