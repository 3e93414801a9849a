"""`xent.doctor`: the checks on, for a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.nn import Module
from torch.optim import Optimizer

from xent.inspection.checks._registry import chosen_rules
from xent.inspection.examination import _capture
from xent.inspection.examination._report import Report
from xent.inspection.examination._session import Session


@contextmanager
def doctor(
    model: Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    mute: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Iterator[Report]:
    """Check every loss inside the block."""
    session = Session(chosen_rules(tuple(mute), tuple(only)), model)
    if optimizer is not None:
        session.run.facts_of(optimizer)
    _capture.begin(session)
    try:
        yield session.report
    finally:
        _capture.end(session)
        session.end()
