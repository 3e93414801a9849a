from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from xent.distributed._ranks import Ranks, raise_together, ranks_of
from xent.errors import DtypeError, OptionError, ShapeError
from xent.problem import check_device, check_target_range, check_tensor, drop_first


def global_row_count(
    target: Tensor | Iterable[Tensor],
    group: object,
    *,
    ignore_index: int = -100,
    shift: int = 0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""The rows that count, over all micro-batches of a step and all ranks of a group: a `normalizer`.

    ::

        count = Σ_ranks Σ_micro-batches Σ_rows [target ≠ ignore_index] · (w[target], or 1)

    Args:
        target: class indices of one micro-batch, or those of all of the step's; ranks may have different numbers of
            both, and none.
        group: the ranks that share the step's rows: data-parallel, sequence-parallel or both; None for this process
            alone.
        ignore_index: of the loss.
        shift: of the loss; the first `shift` positions of the last dimension are no targets.
        weight: class weights of the loss, the same on every rank.

    Returns:
        The count, a float64 scalar, the same on every rank: exact up to 2**53 without weights.

    Gradient:
        None.

    Edge cases:
        No row counts: 0, and a loss divided by it is NaN, as the mean of no rows is.

    Cost:
        One all-gather of 16 bytes a rank, summed in the order of the ranks.

    Raises:
        DtypeError, ShapeError, OptionError: on every rank, if one of them passes what is no target.
        DistributedError: a rank is gone, or did not answer within the group's timeout.

    Source:
        The definition of the mean; see docs/scaling.md for how far the mean of means is from it.

    Differs from the mean that DistributedDataParallel and FSDP take of the ranks' own means: that weighs a token of a
    rank with few of them more.

    Example:
        >>> import torch
        >>> from xent.distributed import global_row_count
        >>> global_row_count([torch.tensor([1, -100]), torch.tensor([2, 3])], None)
        tensor(3., dtype=torch.float64)
    """
    count, failure, device = torch.zeros((), dtype=torch.float64), None, torch.device("cpu")
    try:
        targets = [target] if isinstance(target, Tensor) else list(target)
        for part in targets:
            count = count.to(check_tensor("target", part).device)
            count = count + _counted(part, ignore_index, shift, weight)
        device = count.device
    except Exception as error:  # the others must hear of it
        if group is None:
            raise
        failure = error
    if group is None:
        return count
    return _summed(ranks_of(group), count, failure, device)


def _counted(target: Tensor, ignore_index: int, shift: int, weight: Tensor | None) -> Tensor:
    if target.is_floating_point() or target.dtype == torch.bool:
        raise DtypeError(
            f"target has dtype {target.dtype}", "rows are counted by their class indices", "pass class indices"
        )
    if shift < 0:
        raise OptionError(f"shift={shift}", "it counts positions ahead, 0 or more", "pass the shift of the loss")
    if shift and target.ndim == 0:
        raise ShapeError(f"shift={shift} for one target", "a shift needs a sequence", "pass shift=0")
    indices = drop_first(target.long(), shift, dim=-1)
    counted = indices != ignore_index
    if weight is None:
        return counted.sum().double()
    _check_weight(weight, indices)
    check_target_range(indices, len(weight), ignore_index, may_wait=True)  # the count is waited for anyway
    own = weight.detach().double()[indices.masked_fill(~counted, 0).reshape(-1)].reshape(indices.shape)
    return own.masked_fill(~counted, 0).sum()


def _check_weight(weight: Tensor, indices: Tensor) -> None:
    check_device("weight", weight, indices.device)
    if weight.ndim != 1 or not len(weight):
        raise ShapeError(f"weight has shape {tuple(weight.shape)}", "it has one number for each class", "pass (C,)")


def _summed(ranks: Ranks, count: Tensor, failure: Exception | None, device: torch.device) -> Tensor:
    message = torch.stack([count, count.new_tensor(float(failure is not None))]).to(device)
    found = ranks.gather(message).wait()
    raise_together(ranks, failure, found[:, 1])
    total = found[0, 0]
    for part in found[1:, 0]:
        total = total + part
    return total


class TokenMean:
    """The mean over all tokens of a step, whatever micro-batch and rank they are on; made by `token_mean`.

    Attributes:
        count: tokens of the step, over all ranks; float64 scalar.
        normalizer: what to pass as `normalizer=` to the loss of every micro-batch.
    """

    def __init__(self, count: Tensor, ranks: Ranks | None, averaged: bool) -> None:
        self.count, self._ranks = count, ranks
        size = 1 if ranks is None else ranks.size
        self.normalizer = count / size if averaged else count
        self._factor = 1 / size if averaged else 1.0
        self._sum = torch.zeros((), dtype=torch.float64, device=count.device)

    def add(self, loss: Tensor) -> Tensor:
        """Note the loss of a micro-batch; returns it."""
        self._sum = self._sum + loss.detach().double()
        return loss

    def value(self) -> float:
        """The mean over all tokens of all ranks of the losses that were added; one collective.

        Raises:
            DistributedError: a rank is gone, or did not answer within the group's timeout.
        """
        mine = self._sum * self._factor
        if self._ranks is None:
            return float(mine)
        return float(_summed(self._ranks, mine, None, mine.device))


def token_mean(
    targets: Tensor | Iterable[Tensor],
    group: object,
    *,
    ignore_index: int = -100,
    shift: int = 0,
    weight: Tensor | None = None,
    averaged: bool = True,
) -> TokenMean:
    r"""The exact mean over the tokens of one step, under gradient accumulation and data parallelism.

    Wrappers that average gradients over R ranks (DistributedDataParallel, `fully_shard`) give (1/R) Σ_r ∇L_r. With
    L_r = Σ row loss / (count / R) on every micro-batch, that is the gradient of Σ row loss / count.

    Args:
        targets: those of all micro-batches of the step, on this rank.
        group: the ranks over which gradients are averaged; None for this process alone.
        ignore_index: of the loss.
        shift: of the loss.
        weight: class weights of the loss.
        averaged: whether the wrapper averages gradients (DDP, FSDP2 as they come) rather than adds them.

    Returns:
        A `TokenMean`: pass its `normalizer` to each loss, and each loss to its `add`; `value()` is the step's loss.

    Gradient:
        None of its own; that of the losses becomes the one of the mean over all tokens.

    Edge cases:
        A rank without tokens adds 0; it must still run forward and backward, for the wrapper's own collectives.

    Cost:
        One all-gather of 16 bytes a rank, and another for `value()`.

    Raises:
        DtypeError, ShapeError, OptionError, DistributedError: as `global_row_count`.

    Source:
        The definition of the mean.

    Differs from dividing by the number of micro-batches and ranks: see docs/scaling.md.

    Example:
        >>> import torch, xent
        >>> from xent.distributed import token_mean
        >>> batches = [(torch.zeros(2, 4), torch.tensor([1, -100])), (torch.zeros(2, 4), torch.tensor([0, 3]))]
        >>> mean = token_mean([target for _, target in batches], None)
        >>> for logits, target in batches:
        ...     loss = mean.add(xent.cross_entropy(logits, target, normalizer=mean.normalizer))
        >>> round(mean.value(), 4)
        1.3863
    """
    count = global_row_count(targets, group, ignore_index=ignore_index, shift=shift, weight=weight)
    return TokenMean(count, None if group is None else ranks_of(group), averaged)
