"""`ParameterAccount`: one parameter through a step, its update taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.errors import NotExplained, OptionError
from xent.inspection._optimizer_formulas import Formula, Recomputed
from xent.inspection._step_equality import StepEquality
from xent.inspection._step_facts import Facts, Part, facts_of, facts_of_whole, promised
from xent.inspection._step_records import OptimizerRecord, ParameterRecord
from xent.inspection._tensor_copies import dense_values
from xent.inspection._tensor_summary import Summary, summary
from xent.report import Receipt, ResultTable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

ENTRIES = 12  # of a parameter that are shown where nobody says how many


@dataclass(frozen=True, eq=False, repr=False)
class ParameterAccount:
    """One parameter before and after a step, and every line of the formula between.

    Attributes:
        record: what was kept of it.
        optimizer: the one that has it; None: none.
    """

    record: ParameterRecord
    optimizer: OptimizerRecord | None

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self.record.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter."""
        return self.record.shape

    @property
    def before(self) -> Tensor | None:
        """The parameter when step() began; None where there was no step."""
        return self.record.before

    @property
    def after(self) -> Tensor | None:
        """The parameter when step() returned."""
        return self.record.after

    @property
    def gradient(self) -> Tensor | None:
        """The gradient as step() got it; without a step, as backward left it. None where there was none."""
        return self.record.gradient if self.record.gradient is not None else self.record.raw

    @property
    def raw_gradient(self) -> Tensor | None:
        """The gradient of the loss as backward left it: not clipped; the scale of a GradScaler is divided out."""
        raw, scale = self.record.raw, self.optimizer.unscaled if self.optimizer else 1.0
        return raw if raw is None or scale == 1.0 else raw / scale

    @property
    def update(self) -> Tensor | None:
        """After less before."""
        if self.record.before is None or self.record.after is None:
            return None
        return self.record.after - self.record.before

    @property
    def stepped(self) -> bool:
        """Whether a step was taken on it."""
        return self.record.after is not None

    @property
    def unknown(self) -> str:
        """Why the update is not taken apart; "" where it is."""
        if self.optimizer is None:
            return "in no optimizer"
        if not self.stepped:
            return "no gradient" if self.record.gradient is None and self.optimizer.steps else "no step"
        if isinstance(self.optimizer.formula, str):
            return self.optimizer.formula
        if self.record.gradient is not None and self.record.gradient.is_sparse:
            return "the gradient is sparse"
        return "the parameter is complex" if self.record.dtype.is_complex else ""

    @torch.no_grad()
    def recomputed(self) -> Recomputed:
        """The step made again: every line of the formula, for every entry.

        Raises:
            NotExplained: there is no formula for it.
        """
        taken, formula = self.record.taken, self.optimizer.formula if self.optimizer else ""
        if self.unknown or taken is None or not isinstance(formula, Formula):
            raise NotExplained(
                f"the update of {self.name} is not taken apart: {self.unknown}",
                "a formula is known for dense, real parameters of torch's own optimizers",
                "read .before, .gradient, .update and .after",
            )
        return formula.recompute(taken)

    @cached_property
    def _facts(self) -> Facts | None:
        taken, after, optimizer = self.record.taken, self.record.after, self.optimizer
        if self.unknown or taken is None or after is None or optimizer is None:
            return None
        return None if isinstance(optimizer.formula, str) else facts_of(taken, after, optimizer.formula)

    def entries_of_dictionary(self) -> ResultTable:
        """`entries()`; the step is made again once for these, the equality, the parts and the stages."""
        before, after = self.record.before, self.record.after
        if self.unknown or before is None or after is None:
            return self.entries()
        from xent.inspection._parameter_lines import entries_table

        made = self.recomputed()
        known = self.__dict__  # where cached_property keeps what it has
        if "_facts" not in known:
            known["_facts"] = facts_of_whole(before, after, made)
        if "stages" not in known:
            known["stages"] = _summarised(made)
        return entries_table(self, self._places(None, ENTRIES), made)

    @property
    def equality(self) -> StepEquality | None:
        """The step made again beside the step; None where its formula is not known."""
        return self._facts[0] if self._facts else None

    @property
    def parts(self) -> list[Part]:
        """What the update is the sum of; empty where its formula is not known."""
        return self._facts[1] if self._facts else []

    @cached_property
    def stages(self) -> list[tuple[str, str, Summary]]:
        """(name, formula with numbers, summary) of every line; empty where its formula is not known."""
        if self.unknown:
            return []
        return _summarised(self.recomputed())

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Of the tensors that there are: "before", "gradient", "update", "after"."""
        tensors = {"before": self.before, "gradient": self.gradient, "update": self.update, "after": self.after}
        found = {name: summary(tensor) for name, tensor in tensors.items() if tensor is not None}
        return found if self.record.unstepped is None else {"before": self.record.unstepped} | found

    @property
    def update_ratio(self) -> float | None:
        """‖update‖ ÷ ‖before‖; None without a step, or where the parameter was 0."""
        found = self.summaries
        if "update" not in found or not found["before"].norm:
            return None
        return found["update"].norm / found["before"].norm

    @cached_property
    def predicted(self) -> float:
        """Σ raw gradient · update: what this parameter's move promised the loss, to first order."""
        raw, before, after = self.raw_gradient, self.before, self.after
        if raw is None or before is None or after is None:
            return 0.0
        raw = raw.to_dense() if raw.is_sparse else raw
        return promised(*map(dense_values, (raw, before, after)))

    def entries(self, places: Sequence[Any] | None = None, n: int = ENTRIES) -> ResultTable:
        """Single entries in full: before, gradient, every line of the formula, update, after.

        Args:
            places: indices such as [(0, 1), (3, 2)]; those with the largest updates when None (all in order where the
                parameter has no more than `n`).
            n: how many, without places.

        Raises:
            OptionError: a place that the parameter does not have.
        """
        from xent.inspection._parameter_lines import entries_table

        return entries_table(self, self._places(places, n))

    def _places(self, places: Sequence[Any] | None, n: int) -> list[tuple[int, ...]]:
        if places is not None:
            return [self._checked(place) for place in places]
        if self.record.count <= n:
            return [_unraveled(flat, self.shape) for flat in range(self.record.count)]
        shown = self.update if self.update is not None else self.gradient
        if shown is None or shown.is_sparse or shown.is_complex():
            return [_unraveled(flat, self.shape) for flat in range(min(n, self.record.count))]
        top = shown.reshape(-1).abs().nan_to_num(nan=float("inf")).topk(n).indices.tolist()
        return [_unraveled(flat, self.shape) for flat in top]

    def _checked(self, place: Any) -> tuple[int, ...]:
        index = tuple(place) if isinstance(place, Sequence) else (place,)
        fits = len(index) == len(self.shape) and all(
            isinstance(i, int) and -size <= i < size for i, size in zip(index, self.shape, strict=True)
        )
        if not fits:
            raise OptionError(
                f"entry {index} of {self.name}", f"it has shape {self.shape}",
                "pass one index for each dimension, such as (0, 1)",
            )  # fmt: skip
        return tuple(i % size for i, size in zip(index, self.shape, strict=True))

    @property
    def receipt(self) -> Receipt:
        """The blocks of its display."""
        from xent.inspection._parameter_lines import account_receipt

        return account_receipt(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything about it as plain values, for JSON."""
        from xent.inspection._ledger_dictionary import parameter_dictionary

        return parameter_dictionary(self)

    def __str__(self) -> str:
        return str(self.receipt)

    def __repr__(self) -> str:
        words = self.unknown or str(self.equality)
        return f"<ParameterAccount: {self.name} {' × '.join(map(str, self.shape)) or 'scalar'}, {words}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from xent.report._terminal import rich_receipt

        yield rich_receipt(self.receipt, min(options.max_width, 100))

    def _repr_html_(self) -> str:
        from xent.report._notebook import html_receipt

        return html_receipt(self.receipt)


def _summarised(made: Recomputed) -> list[tuple[str, str, Summary]]:
    return [(stage.name, stage.formula, summary(stage.value)) for stage in made.stages]


def _unraveled(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place = []
    for size in reversed(shape):
        flat, index = divmod(flat, size)
        place.append(index)
    return tuple(reversed(place))
