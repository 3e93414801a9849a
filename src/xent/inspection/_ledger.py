"""`StepLedger`: what an optimizer step did to every parameter, and why."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.errors import OptionError
from xent.inspection._first_step import FirstStep, first_step
from xent.inspection._ledger_sets import ParameterSets, parameter_sets
from xent.inspection._measuring import Rerun
from xent.inspection._parameter_account import ParameterAccount
from xent.inspection._promise import Promise
from xent.inspection._step_equality import StepEquality
from xent.inspection._step_records import LossRecord, OptimizerRecord, ParameterRecord
from xent.inspection._tensor_copies import same_bits
from xent.inspection._watched_parameters import Watched
from xent.report import Receipt, ResultTable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class StepLedger:
    """What one optimizer step did to every parameter; print it, or read its numbers.

    Attributes:
        accounts: one for each parameter, in the model's order.
        optimizers: one for each optimizer: name, formula, options, what was done to the gradients.
        losses: the losses that backward was called on.
        loss_after: the loss after the step, where it was measured.
    """

    def __init__(
        self, watched: Watched, optimizers: list[OptimizerRecord], losses: LossRecord, rerun: Rerun,
        walk: Callable[[Tensor], None],
    ) -> None:  # fmt: skip
        self.optimizers, self.losses = tuple(optimizers), losses
        self.accounts = self._accounts([record for _, record in watched.parameters])
        self.loss_after: float | None = None
        self.is_open = True
        self._has_model = any(record.registered for _, record in watched.parameters)
        self._live = [weakref.ref(parameter) for parameter, _ in watched.parameters]
        self._rerun = rerun
        self._walk: Callable[[Tensor], None] | None = walk

    def _accounts(self, records: Sequence[ParameterRecord]) -> tuple[ParameterAccount, ...]:
        return tuple(
            ParameterAccount(record, None if record.optimizer is None else self.optimizers[record.optimizer])
            for record in records
        )

    def close(self) -> None:
        """The block is over; nothing is left that would keep the model alive."""
        self.is_open, self._walk = False, None
        self.accounts = self._accounts([account.record for account in self.accounts])  # some got their optimizer in it

    # what the user tells it

    def loss(self, loss: Tensor) -> Tensor:
        """Name the loss of this step, before its backward: its value, and the parameters that it reaches.

        Without it the losses that `backward()` is called on in the block are taken.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shown = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise OptionError(f"loss is {shown}", "a loss is a tensor with one number", "pass the reduced loss")
        if not self.losses.given:
            self.losses.forget(len(self.losses.values))
        self.losses.given = True
        self.losses.note(loss)
        if self._walk is not None:
            self._walk(loss)
        return loss

    def measure(self, loss: Callable[[], Any]) -> Promise:
        """Run the loss of the same batch once more, after the step, and compare with what the gradient promised.

        The random numbers are those of the forward pass in the block, so dropout drops the same; random state and
        buffers (running means of BatchNorm) are put back, and no gradient is made. Attributes that the model sets on
        itself are not put back.

        Raises:
            OptionError: no step was taken, no loss was seen before it, or the parameters have moved on.
            ShapeError: the loss is not one number.
        """
        if not self.steps:
            raise OptionError("no step was taken", "ΔL is measured after a step", "call optimizer.step() first")
        if self.losses.total is None:
            raise OptionError(
                "no loss was seen before the step", "ΔL is loss after less loss before",
                "put backward() into the block, or call ledger.loss(loss)",
            )  # fmt: skip
        self._check_live()
        self.loss_after = self._rerun.value(loss)
        return self.promise

    def _check_live(self) -> None:
        for account, parameter in zip(self.accounts, self._live, strict=True):
            live, after = parameter(), account.after
            if after is not None and (live is None or not same_bits(live.detach(), after)):
                raise OptionError(
                    f"{account.name} is no longer what the step left", "ΔL is measured right after the step",
                    "call measure before anything else moves the parameters",
                )  # fmt: skip

    # what it says

    @property
    def steps(self) -> int:
        """How many steps were taken in the block, by all optimizers."""
        return sum(optimizer.steps for optimizer in self.optimizers)

    def parameter(self, name: str) -> ParameterAccount:
        """One parameter, by any name the model has for it.

        Raises:
            OptionError: there is none of this name.
        """
        for account in self.accounts:
            if name == account.name or name in account.record.aliases:
                return account
        near = [account.name for account in self.accounts if name.rpartition(".")[2] in account.name][:4]
        shown = near or [account.name for account in self.accounts][:4]
        raise OptionError(f"parameter {name!r}", "the ledger has no such name", f"pass one such as {', '.join(shown)}")

    def parameters(self, order: str = "worst", n: int | None = None) -> ResultTable:
        """Parameters in a table: size, gradient, update, and what the update is made of.

        Args:
            order: "worst" (those where something is wrong first, then by update ÷ weight) or "first".
            n: how many; all when None.

        Raises:
            OptionError: another order, or a number below 0.
        """
        from xent.inspection._ledger_lines import parameters_table

        return parameters_table(self.ordered(order)[: self._number(n)], f"parameters · {self._number(n):,} of "
                                f"{len(self.accounts):,}")  # fmt: skip

    def _number(self, n: int | None) -> int:
        if n is not None and (not isinstance(n, int) or n < 0):
            raise OptionError(f"n={n!r}", "it counts parameters", "pass a number from 0 on, or leave it out")
        return len(self.accounts) if n is None else min(n, len(self.accounts))

    def ordered(self, order: str) -> list[ParameterAccount]:
        """The accounts in one of the orders of `parameters`."""
        if order == "first":
            return list(self.accounts)
        if order != "worst":
            raise OptionError(f"order={order!r}", "there are two", "pass 'worst' or 'first'")
        return sorted(self.accounts, key=lambda one: (not is_wrong(one), -(one.update_ratio or 0.0)))

    def by_layer(self) -> ResultTable:
        """For each module: gradient, update, update ÷ weight, and what its move promised the loss."""
        return self.promise.by_layer()

    @property
    def promise(self) -> Promise:
        """What the step promised the loss, and what it did where that was measured."""
        from xent.inspection._ledger_layers import layer_records

        predicted = sum(account.predicted for account in self.accounts)
        return Promise(
            predicted, self.losses.total, self.loss_after, self.losses.resolution,
            layer_records(self.accounts, predicted),
        )  # fmt: skip

    @cached_property
    def first_step(self) -> FirstStep | None:
        """Adam's first step and the entries that are an exception to −lr·sign(gradient); None for other steps."""
        return first_step(self.accounts)

    @property
    def sets(self) -> ParameterSets:
        """Parameters that reach the loss, that the model has, that an optimizer has, and the differences."""
        return parameter_sets(self.accounts, self.losses, self._has_model)

    @property
    def equality(self) -> StepEquality | None:
        """The parameter that is furthest from its formula; None where no formula is known."""
        known = [account.equality for account in self.accounts if account.equality is not None]
        return max(known, key=lambda one: (one.apart, one.ulps)) if known else None

    @property
    def receipt(self) -> Receipt:
        """The blocks of its display."""
        from xent.inspection._ledger_lines import ledger_receipt

        return ledger_receipt(self)

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain values, for JSON: what a page needs to draw it."""
        from xent.inspection._ledger_dictionary import ledger_dictionary

        return ledger_dictionary(self)

    def to_frame(self) -> Any:
        """The parameters as a pandas data frame, in the model's order.

        Raises:
            DependencyError: pandas is not installed.
        """
        return self.parameters("first").to_frame()

    def show(self) -> None:
        """Print it: with colours in a terminal, as HTML in a notebook."""
        from xent.report._show import show

        show(self)

    def __str__(self) -> str:
        return str(self.receipt)

    def __repr__(self) -> str:
        names = " + ".join(one.name for one in self.optimizers) or "no optimizer"
        count = len(self.accounts)
        if self.is_open:
            words = "still open"
        elif not self.steps:
            words = "no step"
        else:
            words = str(self.equality or "data only")
        return f"<StepLedger: {names}, {count:,} {'parameter' if count == 1 else 'parameters'}, {words}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from xent.report._terminal import rich_receipt

        yield rich_receipt(self.receipt, min(options.max_width, 100))

    def _repr_html_(self) -> str:
        from xent.inspection._ledger_lines import ledger_html

        return ledger_html(self)


def is_wrong(account: ParameterAccount) -> bool:
    """Whether something about a parameter asks to be looked at."""
    record, equality = account.record, account.equality
    if record.notes or (equality is not None and not equality.holds):
        return True
    finite = record.after is None or record.after.is_sparse or bool(torch.isfinite(record.after).all())
    lost = record.trainable and (record.optimizer is None or (record.gradient is None and account.optimizer is not None
                                                              and account.optimizer.steps > 0))  # fmt: skip
    return not finite or lost
