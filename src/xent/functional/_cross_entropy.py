from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from xent.distributed._exchange import CrossEntropyRows
from xent.distributed._ranks import ranks_of
from xent.distributed._vocab_parallel import part_of, rows_over_classes
from xent.functional._sharded_tensors import cross_entropy_of_shards, is_sharded
from xent.ops.choice import FLOATS, TINY, TINY_ON_A_GPU, _request, column, open_blocks
from xent.problem import Rows, check_range_of, rows_of
from xent.reduction import reduce_rows
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.target_checks import switch as _checks
from xent.terms import LossOptions, LossTerms

# What F.cross_entropy calls, and `accelerate` does not replace.
_torch_kernel = torch._C._nn.cross_entropy_loss  # pyright: ignore[reportAttributeAccessIssue]
_torch_nll = torch._C._nn.nll_loss_nd  # pyright: ignore[reportAttributeAccessIssue]
_REFUSALS = (IndexError, KeyError, RuntimeError, TypeError, ValueError)
_INT64 = torch.int64
_PLAIN = (Tensor, torch.nn.Parameter)
_FULL = (torch.float32, torch.float64)
_TORCH_NUMBER_OF = {"none": 0, "mean": 1, "sum": 2}


@overload
def cross_entropy(
    input: Tensor,
    target: Tensor | SparseTarget,
    weight: Tensor | None = ...,
    *,
    stats: Literal[True],
    **options: Unpack[LossOptions],
) -> tuple[Tensor, RowStats]: ...
@overload
def cross_entropy(
    input: Tensor,
    target: Tensor | SparseTarget,
    weight: Tensor | None = ...,
    *,
    stats: Literal[False] = ...,
    **options: Unpack[LossOptions],
) -> Tensor: ...
def cross_entropy(
    input: Tensor,
    target: Tensor | SparseTarget,
    weight: Tensor | None = None,
    *,
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
    r"""Cross-entropy between logits and class indices or class probabilities.

    With z = softcap·tanh(logit_scale·input / softcap), ln p = z − logsumexp(z) and q the target
    (one-hot for an index), smoothed to (1 − ε)·q + ε/C::

        row loss = r · (−Σ_c w_c q_c ln p_c)  +  weight · z_loss · logsumexp(z)²
        weight   = r · w[target]              (r for probabilities, 0 for an ignored row)
        mean     = Σ row loss / Σ weight      (or / normalizer)

    where r is `row_weight` and w the class `weight`, 1 where not given.

    Args:
        input: logits, (C,), (N, C) or (N, C, d1, …); with `dim`, the classes may be in any dimension. Floating
            point; never modified.
        target: class indices of any integer dtype and the shape of `input` without the classes, each in [0, C) or
            `ignore_index`; or class probabilities of the shape of `input`; or a `xent.SparseTarget`, k of them for
            each row.
        weight: class weights w, (C,).
        ignore_index: rows with this target count neither in the sum nor in the denominator. Class indices, and those of
            a `SparseTarget`, only.
        reduction: "mean", "sum", or "none" for one loss per row.
        label_smoothing: ε in [0, 1].
        row_weight: r, broadcastable to the rows: sample weights, masks, advantages (any sign).
        z_loss: ζ ≥ 0 of the term that keeps logsumexp near 0.
        softcap: bound of the logits, > 0.
        logit_scale: factor on the logits (1/temperature).
        normalizer: a number or tensor that replaces the denominator of the mean, such as the token count over all
            micro-batches and ranks; all rows ignored then gives 0 (0/0, NaN, if it is a tensor of 0).
        dim: dimension of the classes; torch's rule (1, or 0 for one row) when None.
        shift: score position t against the target at t + shift of the last row dimension (1 for next-token labels).
        stats: also return per-row statistics.

    Returns:
        The loss: a scalar, or the shape of the rows for reduction="none"; with `stats=True` the pair
        (loss, `RowStats`). The dtype is float32 for half inputs (torch rounds to half), else the input's.

    Gradient:
        d row loss / d z_c = r·(a·p_c − w_c q_c) + 2·weight·z_loss·logsumexp·p_c, with a = Σ_c w_c q_c; in the dtype
        of `input`. Also with respect to probability targets, both weights and the statistics; derivatives of any
        order and kind (`create_graph`, forward mode, `torch.func`, `vmap`, `torch.compile`).

    Edge cases:
        A logit of −inf has p = 0: as the target it costs +inf; with target probability 0 it costs 0 (torch: NaN);
        under label smoothing it costs +inf, as the equation says. A row with NaN, with +inf or with nothing but
        −inf is NaN. With `softcap` an infinite logit is ±softcap like any other beyond it: it masks nothing. One
        class: the loss is 0. Empty, or all rows ignored: the mean is NaN as in torch, 0 with `normalizer`; the sum is
        0. An ignored row costs 0 and, if its logits are finite, has gradient 0. A weight of 0 on a cost of +inf is
        NaN (0·∞), as in torch.

    Cost:
        On the native and Triton backends one read of the logits forward, one read and one write backward, and no memory
        but the gradient; on the reference backend several times the logits. Of few classes (16 on AVX2) the native
        backend makes the gradient of a sum or mean in the forward pass and holds it until `backward`.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError: tensors or options that do not fit, before any work.
        TargetRangeError: class indices out of range; on CPU, outside `torch.compile` and `vmap`, and on a GPU with
            `xent.check_targets`, without which Triton makes their rows NaN.

    Source:
        Goodfellow, Bengio, Courville, *Deep Learning*, section 6.2.2; label smoothing: https://arxiv.org/abs/1512.00567.

    Differs from `torch.nn.functional.cross_entropy`: more options, integer targets of any dtype, float32 losses for
    half inputs, 0·ln 0 = 0. From `nll_loss`: takes logits, not log-probabilities.

    Example:
        >>> import torch, xent
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> xent.cross_entropy(logits, torch.tensor([0, 2]))
        tensor(0.8606)
        >>> loss, rows = xent.cross_entropy(logits, torch.tensor([0, 2]), stats=True)
        >>> rows.loss, rows.correct
        (tensor([0.1698, 1.5514]), tensor([ True, False]))
    """
    if (
        # The plain loss of few logits: torch's kernel is done before a check of the general path has returned. Nothing
        # here may build an object or call a function of Python; where torch's kernel raises, the checks say why.
        weight is None
        and row_weight is None
        and softcap is None
        and normalizer is None
        and dim is None
        and stats is False
        and label_smoothing == 0.0  # of float and float, which costs a quarter of float and int
        and z_loss == 0.0
        and logit_scale == 1.0
        and shift == 0
        and type(input) in _PLAIN
        and type(target) is Tensor
        and target.dtype is _INT64
        and (
            ((dtype := input.dtype) in _FULL and input.numel() <= TINY)
            or (input.is_cuda and input.numel() <= TINY_ON_A_GPU and dtype in FLOATS)
        )
        and (not open_blocks or _request.name == "auto")
        and not (_checks.on and input.is_cuda)
    ):
        try:
            if dtype in _FULL:
                return _torch_kernel(input, target, None, _TORCH_NUMBER_OF[reduction], ignore_index, 0.0)
            # The two kernels that it is made of: the first takes half logits, and gives float32.
            log_probs = torch.log_softmax(input, 1 if input.ndim > 1 else 0, torch.float32)
            return _torch_nll(log_probs, target, None, _TORCH_NUMBER_OF[reduction], ignore_index)
        except _REFUSALS:
            pass
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
    if is_sharded(input, target, weight, row_weight):
        return cross_entropy_of_shards(input, target, terms, dim, shift, partial(_rows_of_shard, bool(stats)))
    return loss_of_rows(rows_of(input, target, terms, dim, shift, look=False), stats)


def _rows_of_shard(stats: bool, logits: Tensor, given: Callable[[], dict[str, Any]], group: object) -> CrossEntropyRows:
    """This rank's rows: all their classes are here, or spread over a group."""
    if group is not None:
        return rows_over_classes(ranks_of(group), logits, lambda: part_of(logits, **given(), stats=stats))
    problem = rows_of(logits, **given())
    terms = problem.terms
    others = problem.target, problem.probabilities, terms.weight, terms.row_weight
    file = column("cross_entropy", problem.logits, *others)
    if not stats:
        return CrossEntropyRows(*file.rows(problem))
    row_stats = file.rows_with_stats(problem)
    return CrossEntropyRows(row_stats.loss, row_stats.weight, row_stats)


def loss_of_rows(problem: Rows, stats: bool) -> Tensor | tuple[Tensor, RowStats]:
    """Run canonical rows, whose targets nobody has looked at, on the backend of choice and reduce them."""
    terms = problem.terms
    rows_file = column(
        "cross_entropy", problem.logits, problem.target, terms.weight, terms.row_weight, problem.probabilities
    )
    if not (rows_file.LOOKS_AT_TARGETS and problem.is_hard):
        check_range_of(problem)
    if not stats:
        return rows_file.rows(problem)[0] if terms.reduction == "none" else rows_file.total(problem)
    row_stats = rows_file.rows_with_stats(problem)
    return reduce_rows(row_stats.loss, row_stats.weight, terms), row_stats
