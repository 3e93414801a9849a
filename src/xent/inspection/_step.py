"""`xent.step`: a block of training in which an optimizer's step is taken, seen as one ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from xent.errors import OptionError
from xent.inspection._ledger import StepLedger
from xent.inspection._measuring import Rerun
from xent.inspection._optimizer_formulas import formula_of
from xent.inspection._step_events import StepEvents
from xent.inspection._step_records import LossRecord, OptimizerRecord
from xent.inspection._watched_parameters import watched

Named = nn.Module | Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]


def step(
    model: Named | Optimizer | None = None,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    closure: Callable[[], Any] | None = None,
) -> Observation:
    """Watch one optimizer step: what it did to every parameter, and why.

        update = after − before, made again from the optimizer's published formula and compared to the last digit

    Put it around forward, backward, clipping, `optimizer.step()` and `optimizer.zero_grad()`, or around some of them.
    Training is the same, bit for bit.

    Args:
        model: the module, (name, parameter) pairs, or a dict of them; without it the optimizer's parameters.
        optimizer: one, or a list of them.
        closure: gives the loss of the same batch; run once more after the step, without a gradient and with the same
            random numbers, to measure what the step did to the loss.

    Returns:
        A context manager that gives a `StepLedger`: print it, ask it for `.parameter(name)`, `.parameters()`,
        `.by_layer()`, `.to_dict()`.

    Edge cases: several steps in one block: the last is shown. No step: gradients are shown. A step that GradScaler
        skipped is said to be. Sparse gradients, complex parameters, optimizers whose formula is not known (LBFGS,
        SparseAdam, subclasses with a `step` of their own): before, gradient, update and after are shown, nothing is
        taken apart.

    Cost: copies of every stepped parameter before and after, of its gradient (twice where it was clipped or scaled)
        and of the optimizer's state before: 5 times the parameters with Adam, 3 with SGD. Formulas are computed when
        the ledger is read.

    Raises:
        DtypeError: something that is no model or no optimizer.
        OptionError: nothing to watch.

    Example:
        >>> import torch, xent
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with xent.step(model, optimizer) as ledger:
        ...     model(torch.tensor([[1.0, 3.0]])).sum().backward()
        ...     optimizer.step()
        >>> ledger
        <StepLedger: SGD, 1 parameter, equal (0 ulp)>
        >>> ledger.parameter("weight").update
        tensor([[-0.1000, -0.3000]])
    """
    return Observation(model, optimizer, closure)


class Observation:
    """The block itself; `with` it gives the ledger."""

    def __init__(self, model: Any, optimizer: Any, closure: Callable[[], Any] | None) -> None:
        self._watched = watched(model, optimizer)
        self._closure = closure

    def __enter__(self) -> StepLedger:
        optimizers = [OptimizerRecord(type(one).__name__, formula_of(one)) for one in self._watched.optimizers]
        losses, self._stack = LossRecord(), ExitStack()
        self._events = StepEvents(self._watched, optimizers, losses)
        rerun = Rerun(self._watched.model)
        self._ledger = StepLedger(self._watched, optimizers, losses, rerun, self._events.walk)
        with self._stack:
            rerun.listen(self._stack)
            self._events.start()
            self._stack.callback(self._events.stop)
            self._stack = self._stack.pop_all()
        return self._ledger

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._ledger.close()
        if kind is None and self._closure is not None:
            if not self._ledger.steps:
                raise OptionError(
                    "closure=… and no step in the block", "ΔL is measured after a step",
                    "call optimizer.step() inside the block, or leave closure out",
                )  # fmt: skip
            self._ledger.measure(self._closure)
