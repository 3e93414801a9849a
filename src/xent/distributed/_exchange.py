"""From a rank's states to the loss: one message, merged, weighed, reduced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xent.distributed._agreement import Agreement
from xent.distributed._merge import MergedRows, merged, with_own_graph
from xent.distributed._ranks import Ranks, raise_together
from xent.distributed._shard import Shard, ShardState
from xent.distributed._wire import decoded, encoded
from xent.problem import true_class
from xent.reduction import reduce_rows
from xent.row_stats import RowStats


class Exchange:
    """The counted rows of a shard, and their way to all ranks.

    Attributes:
        shard: the rank's part.
        kept: numbers of the rows that count, (M,); None where all do.
    """

    def __init__(self, ranks: Ranks, shard: Shard, agreement: Agreement) -> None:
        self.ranks, self.shard, self._agreement = ranks, shard, agreement
        counted = shard.counted()
        mask = None if counted is None else counted.reshape(-1)
        self.kept = None if mask is None or bool(mask.all()) else mask.nonzero().squeeze(1)
        self.num_kept = shard.row_shape.numel() if self.kept is None else len(self.kept)

    def merged(self, compute: Callable[[], ShardState]) -> MergedRows:
        """Values of the counted rows (M,), from the states (M,) that `compute` makes; it may fail, on all ranks then.

        Raises:
            XentError: `compute` raised on a rank; on every rank.
        """
        state, failure = None, None
        try:
            state = compute()
        except Exception as error:  # whatever it is, the others must hear of it
            failure = error
        messages = self.ranks.gather(encoded(self.shard, state, self.num_kept)).wait()
        raise_together(self.ranks, failure, messages[:, 0])
        if state is None:
            raise RuntimeError("a rank without a state did not say that it failed")
        target = self.of_rows(self.shard.target) if self.shard.is_hard else self.shard.target
        states = decoded(self.shard, self._agreement, target, messages)
        return merged(with_own_graph(states, state, self.ranks.rank), self.shard.is_hard)

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

    def reduced(self, rows: MergedRows) -> Tensor | tuple[Tensor, RowStats]:
        """The loss, or the loss and the statistics of every row."""
        shard, terms = self.shard, self.shard.terms
        loss, weight = rows.loss, rows.weight
        if terms.row_weight is not None:
            row_weight = self.of_rows(terms.row_weight).double()
            loss, weight = loss * row_weight, weight * row_weight
        z_part = terms.z_part(weight, rows.lse)
        if terms.z_loss:
            loss = loss + z_part
        loss_rows, weight_rows = (self.to_rows(value.to(shard.dtype)) for value in (loss, weight))
        value = reduce_rows(loss_rows, weight_rows, terms)
        if not shard.with_stats or rows.entropy is None or rows.prediction is None:
            return value
        prediction = self.to_rows(rows.prediction, -1)
        true = true_class(shard) if rows.true_class is None else self.to_rows(rows.true_class, -1)
        return value, RowStats(
            loss=loss_rows,
            lse=self.to_rows(rows.lse.to(shard.dtype)),
            entropy=self.to_rows(rows.entropy.to(shard.dtype)),
            z_loss=self.to_rows(z_part.to(shard.dtype)),
            prediction=prediction,
            correct=(prediction == true) & (prediction >= 0),
            weight=weight_rows,
        )


def shard_file(shard: Shard, *others: Tensor | None) -> str:
    """ "kernels" where the native column runs these tensors, "formula" for everything else."""
    from xent.ops.choice import chosen_name

    tensors = shard.target, shard.probabilities, shard.terms.weight
    name = chosen_name("cross_entropy", shard.logits, *others, *tensors)
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return "kernels" if name == "native" and not differentiated else "formula"
