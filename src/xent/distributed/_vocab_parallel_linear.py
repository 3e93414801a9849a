from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.distributed._agreement import Agreeing, Part
from xent.distributed._exchange import CrossEntropyRows, Exchange, shard_file
from xent.distributed._first_order import first_order
from xent.distributed._linear_work import HeadGradients, LinearWork, accumulator
from xent.distributed._ranks import Pending, Ranks, raise_together, ranks_of
from xent.distributed._shard import Shard, ShardState
from xent.distributed._shard_kernels import StateGradients
from xent.errors import OptionError, ShapeError
from xent.head import Head, HeadRows, head_rows_of
from xent.ops.native.autocast import outside_autocast, with_casts
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms


def vocab_parallel_linear_cross_entropy(
    hidden: Tensor,
    local_weight: Tensor,
    target: Tensor | SparseTarget,
    *,
    group: object,
    local_bias: Tensor | None = None,
    weight: Tensor | None = None,
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
    max_memory: int | None = None,
    stats: bool = False,
) -> Tensor | tuple[Tensor, RowStats]:
    r"""Cross-entropy of a linear layer whose output classes are spread over the ranks of a group.

    ::

        local_logits = hidden · local_weightᵀ + local_bias,   then as `vocab_parallel_cross_entropy`

    Args:
        hidden: hidden states, the same on every rank: (D,), (N, D) or (…, D); with `dim`, the features
            in any dimension.
        local_weight: the rank's rows of the linear weight, (V_r, D); V_r may differ from rank to rank and be 0.
        target: class indices in [0, V), the same on every rank; or the rank's V_r of the probabilities; or a
            `xent.SparseTarget`.
        group: a process group, or a one-dimensional device mesh.
        local_bias: the rank's part of the bias, (V_r,).
        weight: the rank's class weights, (V_r,).
        ignore_index: as in `linear_cross_entropy`, as are the options that follow; each the same on every rank.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1], spread over all V classes.
        row_weight: broadcastable to the rows; the same on every rank.
        z_loss: ζ ≥ 0.
        softcap: bound of the logits.
        logit_scale: factor on the logits.
        normalizer: replaces the denominator of the mean.
        dim: dimension of the features in `hidden`, the last when None.
        shift: score position t against the target at t + shift.
        max_memory: bound, in bytes, of this rank's memory beyond inputs, gradients and, of half `hidden`, a float32
            sum of its gradient; the larger of 64 MiB and a tenth of inputs and gradients when None.
        stats: also return per-row statistics.

    Returns:
        The loss, or (loss, `RowStats`), on every rank.

    Gradient:
        Of `local_weight` and `local_bias` on each rank; of `hidden` the whole one, summed over the ranks, on every
        rank: the call stands behind no other all-reduce of it. First order only. None for targets and class weights.

    Edge cases:
        Those of `vocab_parallel_cross_entropy`.

    Cost:
        The logits of a rank are made a few rows at a time; three products if they fit `max_memory` at once, else four.
        Forward the two collectives of `vocab_parallel_cross_entropy`, the first while the first logits are made;
        backward one all-reduce of the gradient of the counted hidden states in their dtype, while the weight's last
        product is made. Each rank rounds its part of a half gradient once; how parts of many ranks are added is up to
        the group's backend. None if `hidden` requires no gradient.

    Errors:
        Raised on every rank of the group, with the number of the rank that failed and its cause; in the backward pass
        too, from the gradient of the logits until the sum of the gradient of `hidden` begins. What fails before raises
        on its rank alone, and the others end with the group's timeout; what fails after (the last product of the
        weight's gradient), or where `hidden` requires no gradient, too, and the others wait for nothing of it.

    Raises:
        BackendError: `max_memory` is less than one row of logits takes.
        OptionError: a class weight or probabilities that require gradient.
        ShapeError, DtypeError, DeviceError, TargetRangeError, DistributedError: as `vocab_parallel_cross_entropy`.

    Source:
        As `vocab_parallel_cross_entropy`, and Wijmans et al., https://arxiv.org/abs/2411.09009.

    Differs from a column-parallel linear layer with a parallel loss on top: the logits are not held.

    Example:
        >>> import torch
        >>> from xent.distributed import vocab_parallel_linear_cross_entropy
        >>> hidden, local_weight = torch.zeros(2, 8), torch.zeros(32, 8)  # 32 classes of this rank  # doctest: +SKIP
        >>> target = torch.tensor([3, 60])  # doctest: +SKIP
        >>> vocab_parallel_linear_cross_entropy(hidden, local_weight, target, group=group)  # 2 ranks  # doctest: +SKIP
        tensor(4.1589)
    """
    ranks, made = ranks_of(group), []

    def problem() -> HeadRows:
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
        head = Head(local_weight, local_bias, is_shard=True)
        rows = head_rows_of(hidden, head, target, terms, -1 if dim is None else dim, shift)
        return replace(rows, max_memory=_checked_bytes(max_memory))

    return linear_rows_over_classes(ranks, hidden, problem, bool(stats)).reduced(made[0])


def linear_rows_over_classes(
    ranks: Ranks, hidden: Tensor, problem: Callable[[], HeadRows], stats: bool
) -> CrossEntropyRows:
    """Every row of a linear layer's output whose classes are spread over the ranks."""
    work = _Work()
    device = hidden.device if isinstance(hidden, Tensor) else torch.device("cpu")
    agreeing = Agreeing(ranks, device, lambda: work.part_of(problem(), stats))
    work.begin()  # while the others answer
    shard, agreement, room = agreeing.finish()
    exchange = Exchange(ranks, shard, agreement)
    return exchange.weighed(exchange.merged(room, lambda: work.states(shard, ranks)))


class _Work:
    """The work of one call, from its checks on."""

    def __init__(self) -> None:
        self._rows: LinearWork | None = None
        self._problem: HeadRows | None = None
        self._failure: Exception | None = None

    def part_of(self, problem: HeadRows, stats: bool) -> Part:
        """What the others are told."""
        _check_supported(problem)
        problem = with_casts(problem)
        logits = problem.hidden.detach().new_empty(()).expand(*problem.row_shape, len(problem.weight))  # no memory
        shard = Shard(logits, problem.target, problem.probabilities, problem.terms, 0, len(problem.weight), stats)
        self._problem = problem
        self._rows = LinearWork(problem, shard_file(shard, problem.hidden, problem.weight, problem.bias))
        return Part(shard, (torch.is_grad_enabled() and problem.hidden.requires_grad, problem.hidden.shape[-1]))

    def begin(self) -> None:
        """Make the first logits; an error waits until the others can hear of it."""
        try:
            if self._rows is not None:
                self._rows.begin()
        except Exception as error:
            self._failure = error

    def states(self, shard: Shard, ranks: Ranks) -> ShardState:
        """The states of the counted rows, with their graph."""
        if self._failure is not None:
            raise self._failure
        problem, rows = self._problem, self._rows
        if problem is None or rows is None:
            raise RuntimeError("states of a call that failed its checks")
        made: list[ShardState] = []
        parts = _States.apply(problem.hidden, problem.weight, problem.bias, (rows, shard, ranks, made))
        state = made[0]
        state.rest, state.spread = parts[0], parts[1]
        if shard.with_stats:
            state.entropy = parts[2]
        return state


class _States(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        hidden, weight, bias, (rows, shard, ranks, made) = inputs
        state = rows.states(shard, keep=any(ctx.needs_input_grad))
        made.append(state)
        ctx.save_for_backward(hidden, weight, bias)  # a change of them in place must be noticed
        ctx.rows, ctx.shard, ctx.ranks = rows, shard, ranks
        ctx.set_materialize_grads(False)
        entropy = torch.zeros(()) if state.entropy is None else state.entropy
        return state.rest, state.spread, entropy

    @staticmethod
    @first_order
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, *_ = ctx.saved_tensors  # unpacked, so that a change in place is noticed
        upstream = StateGradients(gradients[0], gradients[1], gradients[2] if ctx.shard.with_stats else None)
        made = _gradients(ctx.rows, ctx.shard, ctx.ranks, upstream, ctx.needs_input_grad)
        of_hidden = None
        if made.hidden is not None:
            of_hidden = made.hidden[:-1].view(-1, hidden.shape[-1]).to(hidden.dtype)
            if ctx.rows.kept is not None:
                whole = of_hidden.new_zeros(hidden.shape[:-1].numel(), hidden.shape[-1])
                of_hidden = whole.index_copy(0, ctx.rows.kept, of_hidden)
            of_hidden = of_hidden.view(hidden.shape)
        return of_hidden, made.weight, made.bias, None


def _gradients(
    rows: LinearWork, shard: Shard, ranks: Ranks, upstream: StateGradients, needed: tuple[bool, ...]
) -> HeadGradients:
    """The gradients; that of hidden states is summed over the ranks, and so are failures on the way to it."""
    room = HeadGradients(None, None, None)
    needs_hidden, needs_weight, needs_bias = needed[:3]
    exact, weight = accumulator(rows.weight.dtype), rows.weight
    failure, pending, left = None, None, len(rows) * len(weight)
    wanted = rows.hidden.numel() + 1
    try:
        if needs_hidden:
            dtype = exact if rows.cut.tile else weight.dtype  # rounded once on each rank, when it is whole
            room.hidden = torch.zeros(wanted, dtype=dtype, device=weight.device)
        if needs_weight:
            dtype = exact if rows.sums_weight else weight.dtype
            room.weight = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
        if needs_bias:
            room.bias = torch.zeros(len(weight), dtype=exact, device=weight.device)
        for some, classes, gradient in rows.backward(shard, upstream):
            _add_to_hidden(room, rows, gradient, some, classes)
            left -= gradient.numel()
            if room.hidden is not None and left == 0 and pending is None:
                room.hidden = room.hidden.to(weight.dtype)
                pending = ranks.add(room.hidden)
            _add_to_head(room, rows, gradient, some, classes)
        if room.hidden is not None:
            room.hidden = room.hidden.to(weight.dtype)
    except Exception as error:  # the others are on their way to the sum
        if not needs_hidden or pending is not None:
            raise
        failure, room = error, HeadGradients(None, None, None)  # what is freed has room for what the sum takes
        room.hidden = torch.zeros(wanted, dtype=weight.dtype, device=weight.device)
    dtype = weight.dtype
    if room.hidden is not None:
        _wait_for_sum(ranks, room.hidden, pending, failure)
    return HeadGradients(
        room.hidden,
        None if room.weight is None else room.weight.to(dtype),
        None if room.bias is None else room.bias.to(dtype),
    )


def _add_to_hidden(room: HeadGradients, rows: LinearWork, gradient: Tensor, some: slice, classes: slice) -> None:
    """Of some rows from all classes, or of all rows from some classes, which are added up."""
    if room.hidden is None or not gradient.shape[1]:
        return
    into = room.hidden[:-1].view(rows.hidden.shape)[some]
    make = rows.products.add if rows.cut.tile else rows.products.write
    make(into, gradient, rows.weight[classes])


def _add_to_head(room: HeadGradients, rows: LinearWork, gradient: Tensor, some: slice, classes: slice) -> None:
    if room.weight is not None and gradient.numel():
        make = rows.products.add if rows.sums_weight else rows.products.write
        make(room.weight[classes], gradient.t(), rows.hidden[some])
    if room.bias is not None:
        room.bias[classes] += gradient.sum(0, dtype=room.bias.dtype)


def _wait_for_sum(ranks: Ranks, total: Tensor, pending: Pending | None, failure: Exception | None) -> None:
    if pending is None:
        total[-1] = 0.0 if failure is None else 1.0
        pending = ranks.add(total)
    pending.wait()
    if float(total[-1]) > 0:
        flag = torch.tensor([failure is not None], dtype=torch.uint8, device=total.device)
        raise_together(ranks, failure, ranks.gather(flag).wait()[:, 0])


def _check_supported(problem: HeadRows) -> None:
    if problem.extra_shape:
        raise OptionError(
            "local_weight of K-dimensional logits",
            "classes are spread over ranks in dimension 0 of a (V_r, D) weight",
            "pass the weight of a Linear",
        )
    if problem.weight.ndim != 2:
        raise ShapeError(f"local_weight has shape {tuple(problem.weight.shape)}", "it is (V_r, D)", "pass such")
    differentiated = (problem.target, problem.terms.weight, problem.probabilities)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated):
        raise OptionError(
            "a target or class weight that requires gradient",
            "a linear loss over ranks has gradients of hidden states, linear weight and bias only",
            "detach it, or pass the logits to vocab_parallel_cross_entropy",
        )


def _checked_bytes(max_memory: object) -> int | None:
    if max_memory is None:
        return None
    if isinstance(max_memory, bool) or not isinstance(max_memory, int) or max_memory <= 0:
        raise OptionError(f"max_memory={max_memory!r}", "it counts bytes, more than 0", "pass such as 64 * 2**20")
    return max_memory
