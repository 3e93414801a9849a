"""The ledger of a recorded step, in a bounded number of lines."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from xent.inspection._ledger import StepLedger
from xent.inspection._measuring import Rerun
from xent.inspection._optimizer_formulas import formula_of
from xent.inspection._step_events import StepEvents
from xent.inspection._step_records import LossRecord, OptimizerRecord
from xent.inspection._watched_parameters import watched
from xent.inspection.watching._subjects import Subjects

MOST_ENTRIES = 4 << 20  # parameters: a ledger copies them up to five times
_MOST_PARAMETERS = 60


class SampledLedger:
    """`xent.step` around one step of the run.

    It is told of steps: hooks can't be added to an optimizer, nor removed, while its hooks run.
    """

    def __init__(self, subjects: Subjects) -> None:
        parameters = watched(subjects.named_parameters(), subjects.optimizers)
        optimizers = [OptimizerRecord(type(one).__name__, formula_of(one)) for one in parameters.optimizers]
        losses = LossRecord()
        self._events = StepEvents(parameters, optimizers, losses)
        self._ledger = StepLedger(parameters, optimizers, losses, Rerun(None), self._events.walk)
        self._events.start(hears_steps=False)

    @classmethod
    def begun(cls, subjects: Subjects) -> SampledLedger | None:
        """A ledger of the step that comes; None where copies would be large, or no optimizer is known yet."""
        return cls(subjects) if subjects.optimizers and subjects.num_parameters <= MOST_ENTRIES else None

    def step_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """As a hook of the optimizer."""
        return self._events.step_begins(optimizer, args, kwargs)

    def step_ended(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """As a hook of the optimizer."""
        self._events.step_ended(optimizer, args, kwargs)

    def stop(self) -> None:
        """Listen no more."""
        self._events.stop()
        self._ledger.close()

    def to_dict(self) -> dict[str, Any]:
        """What the record holds: of many parameters those that moved most, of each the summaries."""
        found = self._ledger.to_dict()
        parameters = found["parameters"]
        if len(parameters) > _MOST_PARAMETERS:
            parameters.sort(key=lambda one: -(one["ratio"] or 0.0))
            del parameters[_MOST_PARAMETERS:]
        return {**found, "num_parameters": len(self._ledger.accounts)}
