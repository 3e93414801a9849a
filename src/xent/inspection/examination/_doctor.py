"""`xent.doctor`: the checks on, for a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    """Check every loss and training step inside a block, and name the mistakes with their file and line.

    Calls of the losses of `torch.nn.functional` (and with them the `torch.nn` modules) and of xent are observed, and
    backward passes, optimizer steps, clipping and gradient scaling; a loss written by hand is read from its graph at
    `backward()`. Results, exceptions and the random state stay as they are, bit by bit.

    Args:
        model: the model that is trained, where several could be meant.
        optimizer: an optimizer that was made before the block; others are found when they are made or step.
        mute: rules to leave out. A comment `# xent: ignore[RULE]` on the line of a call does it for that line.
        only: rules to check, and no others.

    Returns:
        A context manager that gives a `Report`, filled when the block ends, also by an exception: print it, or call
        `.assert_clean()`.

    Gradient:
        Unchanged.

    Edge cases:
        Blocks may be nested and left in any order and thread. Forked children (a DataLoader's workers) and what runs
        inside a graph of `torch.compile` are not observed. A function imported by name before is observed too.

    Cost:
        Expensive checks are made at calls 1, 2, 3, 5, 10, 20, 50, 100, … of a line, and at all backward passes of such
        steps; the rest counts. Memory is constant; no tensor is kept.

    Raises:
        OptionError: an unknown rule.

    Source:
        The catalogue: `xent doctor --list`; each rule: `xent doctor --explain RULE`.

    Differs from torch, which has no such function.

    Example:
        >>> import torch, xent
        >>> with xent.doctor() as report:
        ...     probabilities = torch.zeros(2, 4, requires_grad=True).softmax(1)
        ...     loss = torch.nn.functional.cross_entropy(probabilities, torch.tensor([0, 3]))
        >>> [finding.rule for finding in report.findings]
        ['softmax-before-cross-entropy']
    """
    session = _started(model, optimizer, tuple(mute), tuple(only))
    try:
        yield session.report
    finally:
        _capture.end(session)
        session.end()


def started(mute: tuple[str, ...], only: tuple[str, ...]) -> Callable[[], Report]:
    """Begin without a block; what is returned ends it and gives the report."""
    session = _started(None, None, mute, only)

    def stop() -> Report:
        _capture.end(session)
        return session.end()

    return stop


def session_for(models: Sequence[Module], optimizers: Sequence[Optimizer]) -> Session:
    """A session at work on a run that somebody else watches, who ends it: `_capture.end(session)`, `session.end()`."""
    session = _started(models[0] if len(models) == 1 else None, None, (), ())
    for optimizer in optimizers:
        session.run.facts_of(optimizer)
    return session


def _started(
    model: Module | None, optimizer: Optimizer | None, mute: tuple[str, ...], only: tuple[str, ...]
) -> Session:
    session = Session(chosen_rules(mute, only), model)
    if optimizer is not None:
        session.run.facts_of(optimizer)
    _capture.begin(session)
    return session
