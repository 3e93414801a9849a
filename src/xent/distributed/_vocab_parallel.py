from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xent.distributed import _shard_formula, _shard_kernels
from xent.distributed._agreement import Agreeing, Part
from xent.distributed._exchange import CrossEntropyRows, Exchange, shard_file
from xent.distributed._plain_rows import PlainRows, is_plain
from xent.distributed._ranks import Ranks, ranks_of
from xent.distributed._shard import Shard
from xent.problem import LogitsLayout, canonical_target, check_floating, class_dim, drop_last
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms


def vocab_parallel_cross_entropy(
    local_logits: Tensor,
    target: Tensor | SparseTarget,
    weight: Tensor | None = None,
    *,
    group: object,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    row_weight: Tensor | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    normalizer: float | Tensor | None = None,
    dim: int | None = None,
    shift: int = 0,
    stats: bool = False,
) -> Tensor | tuple[Tensor, RowStats]:
    r"""Cross-entropy of logits whose classes are spread over the ranks of a group.

    Rank r holds V_r consecutive classes of V = Σ_r V_r, the ranks in the order of the group. Each rank makes the
    log-sum-exp state of its classes, and the states are merged in that order::

        lse = logsumexp_r(lse_r)          row loss, weight and mean: those of `xent.cross_entropy` over all V classes

    Every rank of the group makes the same call with the same rows, and gets the same result to the last bit.

    Args:
        local_logits: the rank's logits, as `cross_entropy` takes them, with V_r classes; V_r may differ from rank to
            rank and be 0. Never modified.
        target: class indices in [0, V), the same on every rank; or the rank's V_r of the class probabilities; or a
            `xent.SparseTarget` with indices in [0, V), the same on every rank.
        weight: the rank's class weights, (V_r,).
        group: a process group, or a one-dimensional device mesh.
        ignore_index: as in `cross_entropy`, as are the options that follow; each must be the same on every rank.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1], spread over all V classes.
        row_weight: broadcastable to the rows; the same on every rank.
        z_loss: ζ ≥ 0.
        softcap: bound of the logits.
        logit_scale: factor on the logits.
        normalizer: replaces the denominator of the mean; see `global_row_count`.
        dim: dimension of the classes; torch's rule (1, or 0 for one row) when None.
        shift: score position t against the target at t + shift.
        stats: also return per-row statistics; `prediction` counts over all V classes.

    Returns:
        The loss, or (loss, `RowStats`), as `cross_entropy` returns them, on every rank.

    Gradient:
        That of the whole loss with respect to the rank's logits, probabilities and class weights, and the whole one of
        `row_weight`; of the probabilities of a `SparseTarget` the part of the rank's classes. It needs no message.
        First order only: a second derivative raises.

    Edge cases:
        Those of `cross_entropy`; a rank without classes, or with nothing but −inf in a row, adds nothing to it.

    Cost:
        The rank's logits are read once forward, and read and written once backward. Two collectives forward, none
        backward: an all-gather of 72 bytes a rank (sizes, options, errors), and one of the states: 8 bytes, and for
        each counted row 10 of float32 logits, 8 of half ones without soft cap and scale, if targets are indices
        without smoothing and class weight; else 8 for the log-sum-exp, 4 for what the target adds, and 4 for each of
        class weight and mass of a probability target. With `stats` 4 for each of entropy, largest logit and prediction
        (and for probabilities their largest and its class). Of float64 logits each is twice as long, but for
        prediction and class. Each rank sends and receives (size − 1) times its message.

    Errors:
        Raised on every rank of the group, with the number of the rank that failed and its cause.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError, TargetRangeError: as `cross_entropy`, or the ranks do not fit
            each other.
        DistributedError: a rank failed for another reason, is gone, or did not answer within the group's timeout.

    Source:
        The online softmax: Milakov, Gimelshein, https://arxiv.org/abs/1805.02867; the split of the vocabulary:
        Shoeybi et al., https://arxiv.org/abs/1909.08053, section 3.

    Differs from `torch.distributed.tensor.parallel.loss_parallel`: a function of plain tensors without handlers, every
    option, two collectives instead of three or more. From Megatron-LM: smoothing is over all V classes, and the logits
    are not written to.

    Example:
        >>> import torch, xent
        >>> from xent.distributed import vocab_parallel_cross_entropy
        >>> local_logits = torch.zeros(2, 32)  # 32 classes of this rank  # doctest: +SKIP
        >>> vocab_parallel_cross_entropy(local_logits, torch.tensor([3, 60]), group=group)  # 2 ranks  # doctest: +SKIP
        tensor(4.1589)
    """
    ranks = ranks_of(group)
    made: list[LossTerms] = []

    def part() -> Part:
        terms = LossTerms(
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            weight=weight,
            row_weight=row_weight,
            z_loss=z_loss,
            softcap=softcap,
            logit_scale=logit_scale,
            reduction=reduction,
            normalizer=normalizer,
        )
        made.append(terms)
        return part_of(local_logits, target, terms, dim, shift, bool(stats))

    return rows_over_classes(ranks, local_logits, part).reduced(made[0])


def part_of(
    local_logits: Tensor, target: Tensor | SparseTarget, terms: LossTerms, dim: int | None, shift: int, stats: bool
) -> Part:
    """One rank's part, checked as far as one rank can."""
    check_floating("local_logits", local_logits)
    where = class_dim(local_logits, dim)
    layout = LogitsLayout(tuple(local_logits.shape), where, local_logits.device, is_shard=True)
    indices, probabilities, terms = canonical_target(layout, target, terms, shift)
    logits = drop_last(local_logits.movedim(where, -1), shift, dim=-2)
    shard = Shard(logits, indices, probabilities, terms, 0, layout.num_classes, stats)
    return Part(shard, (shift,), is_plain(shard))


def rows_over_classes(ranks: Ranks, local_logits: Tensor, part: Callable[[], Part]) -> CrossEntropyRows:
    """Every row of logits whose classes are spread over the ranks."""
    device = local_logits.device if isinstance(local_logits, Tensor) else torch.device("cpu")
    agreeing = Agreeing(ranks, device, part)
    plain = None
    if agreeing.part is not None and agreeing.room is not None and agreeing.part.is_plain:
        plain = PlainRows(agreeing.part.shard, agreeing.room, ranks)
        plain.begin()  # while the others answer
    shard, agreement, room = agreeing.finish()
    if plain is not None and agreement.is_plain:
        return plain.finish(shard, agreement)
    exchange = Exchange(ranks, shard, agreement)
    file = _shard_kernels if shard_file(shard) == "kernels" else _shard_formula
    return exchange.weighed(exchange.merged(room, lambda: file.state_of(shard).at(exchange.kept)))
