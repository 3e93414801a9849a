"""From a rank's states to the loss: one message, merged, weighed, reduced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.distributed._agreement import Agreement
from xent.distributed._merge import MergedRows, merged
from xent.distributed._ranks import Ranks, raise_together
from xent.distributed._shard import Shard, ShardState
from xent.distributed._wire import Room, decoded, encode, write_failure
from xent.ops.choice import chosen_name
from xent.problem import Rows, true_class
from xent.reduction import reduce_rows
from xent.row_stats import RowStats
from xent.terms import LossTerms


class Exchange:
    """The counted rows of a shard, and their way to all ranks.

    Attributes:
        shard: the rank's part.
        kept: numbers of the rows that count, (M,), from `merged` on; None where all do.
    """

    def __init__(self, ranks: Ranks, shard: Shard, agreement: Agreement) -> None:
        self.ranks, self.shard, self._agreement = ranks, shard, agreement
        self.kept: Tensor | None = None

    def merged(self, room: Room, compute: Callable[[], ShardState]) -> MergedRows:
        """Values of the counted rows (M,), from the states (M,) that `compute` makes; it may fail, on all ranks then.

        Raises:
            XentError: `compute` raised on a rank; on every rank.
        """
        state, failure = None, None
        try:
            if self._agreement.failure is not None:
                raise self._agreement.failure
            self.kept = room.kept()
            state = compute()
            encode(self.shard, state, room.message)
        except Exception as error:  # whatever it is, the others must hear of it
            failure = error
            write_failure(room.message)
        messages = self.ranks.gather(room.message, into=room.messages).wait()
        raise_together(self.ranks, failure, messages[:, 0])
        if state is None:
            raise RuntimeError("a rank without a state did not say that it failed")
        target = self.of_rows(self.shard.target) if self.shard.is_hard else self.shard.target
        states = decoded(self.shard, self._agreement, target, messages)
        return merged(states, state, self.ranks.rank, self.shard.is_hard)

    def of_rows(self, value: Tensor) -> Tensor:
        """The counted ones of numbers (*rows)."""
        flat = value.reshape(-1)
        return flat if self.kept is None else flat[self.kept]

    def to_rows(self, value: Tensor, ignored: float = 0) -> Tensor:
        """Numbers (*rows) from those of the counted rows."""
        if self.kept is not None:
            whole = value.new_full((self.shard.row_shape.numel(),), ignored)
            value = whole.index_put((self.kept,), value)
        return value.reshape(self.shard.row_shape)

    def weighed(self, rows: MergedRows) -> CrossEntropyRows:
        """Loss, weight and statistics of every row, with all weights and the z-term."""
        shard, terms = self.shard, self.shard.terms
        loss, weight = rows.loss, rows.weight
        if terms.row_weight is not None:
            row_weight = self.of_rows(terms.row_weight).double()
            loss, weight = loss * row_weight, weight * row_weight
        z_part = terms.z_part(weight, rows.lse)
        if terms.z_loss:
            loss = loss + z_part
        loss_rows, weight_rows = (self.to_rows(value.to(shard.dtype)) for value in (loss, weight))
        if not shard.with_stats or rows.entropy is None or rows.prediction is None:
            return CrossEntropyRows(loss_rows, weight_rows)
        prediction = self.to_rows(rows.prediction, -1)
        true = true_class(as_rows(shard)) if rows.true_class is None else self.to_rows(rows.true_class, -1)
        stats = RowStats(
            loss=loss_rows,
            lse=self.to_rows(rows.lse.to(shard.dtype)),
            entropy=self.to_rows(rows.entropy.to(shard.dtype)),
            z_loss=self.to_rows(z_part.to(shard.dtype)),
            prediction=prediction,
            correct=(prediction == true) & (prediction >= 0),
            weight=weight_rows,
        )
        return CrossEntropyRows(loss_rows, weight_rows, stats)


@dataclass(frozen=True, eq=False)
class CrossEntropyRows:
    """Loss and weight of every row, (*rows), and the statistics if they were asked for."""

    loss: Tensor
    weight: Tensor
    stats: RowStats | None = None

    def reduced(self, terms: LossTerms) -> Tensor | tuple[Tensor, RowStats]:
        """The loss, or the loss and the statistics."""
        value = reduce_rows(self.loss, self.weight, terms)
        return value if self.stats is None else (value, self.stats)


def as_rows(shard: Shard) -> Rows:
    """The shard in the form that reads its target: with as many classes as all ranks have, and no memory for them."""
    of_all = shard.logits.new_empty(()).expand(*shard.row_shape, shard.total)
    return Rows(of_all, shard.target, shard.terms, shard.probabilities)


def shard_file(shard: Shard, *others: Tensor | None) -> str:
    """Which file makes the states: "kernels" where the native column runs these tensors, else "formula"."""
    tensors = shard.target, shard.probabilities, shard.terms.weight
    name = chosen_name("cross_entropy", shard.logits, *others, *tensors)
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return "kernels" if name == "native" and not differentiated else "formula"
