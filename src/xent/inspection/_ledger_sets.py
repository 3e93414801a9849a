"""Three sets of parameters that ought to be one: they reach the loss, the model has them, an optimizer has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._step_records import LossRecord


@dataclass(frozen=True)
class ParameterSets:
    """Names; a parameter that nobody named is given by its shape.

    Attributes:
        reached: those that a loss reaches; None where no backward was seen.
        registered: those that the model has; None without a model.
        optimized: those that an optimizer has.
        frozen: those of the model that need no gradient and that no optimizer has.
        unreached: trainable, in an optimizer, not reached by a loss them.
        unoptimized: trainable, in the model and in no optimizer.
        unregistered: in an optimizer and not in the model.
        strangers: reach the loss and are in neither.
    """

    reached: tuple[str, ...] | None
    registered: tuple[str, ...] | None
    optimized: tuple[str, ...]
    frozen: tuple[str, ...]
    unreached: tuple[str, ...]
    unoptimized: tuple[str, ...]
    unregistered: tuple[str, ...]
    strangers: tuple[str, ...]

    @property
    def differences(self) -> list[tuple[str, tuple[str, ...]]]:
        """(what, names) of every difference that there is."""
        named = [
            ("in an optimizer, not reached by a loss", self.unreached),
            ("in no optimizer", self.unoptimized),
            ("in an optimizer, not in the model", self.unregistered),
            ("reaches the loss, neither in the model nor in an optimizer", self.strangers),
        ]
        return [(what, names) for what, names in named if names]


def parameter_sets(accounts: Sequence[ParameterAccount], losses: LossRecord, has_model: bool) -> ParameterSets:
    """The sets and what is in one and not in another."""
    records = [account.record for account in accounts]
    seen = losses.seen or any(record.backwards for record in records)
    with_gradient = [record for record in records if record.reached or (not seen and record.raw is not None)]
    known = seen or bool(with_gradient)
    reached = {record.name for record in with_gradient}
    optimized = [record for record in records if record.optimizer is not None]

    def names(chosen: Sequence) -> tuple[str, ...]:
        return tuple(record.name for record in chosen)

    return ParameterSets(
        names(with_gradient) if known else None,
        names([record for record in records if record.registered]) if has_model else None,
        names(optimized),
        names([record for record in records if not record.trainable and record.optimizer is None]),
        names([r for r in optimized if r.trainable and known and r.name not in reached]),
        names([r for r in records if r.trainable and r.optimizer is None]) if optimized else (),
        names([record for record in optimized if has_model and not record.registered]),
        tuple(f"a parameter of shape {shape}" for shape in losses.strangers),
    )
