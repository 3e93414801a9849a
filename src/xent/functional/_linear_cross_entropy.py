from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Unpack, overload

from torch import Tensor

from xent.distributed._exchange import CrossEntropyRows
from xent.distributed._ranks import ranks_of
from xent.distributed._vocab_parallel_linear import linear_rows_over_classes
from xent.errors import DtypeError, OptionError
from xent.functional._sharded_tensors import is_sharded, linear_of_shards
from xent.head import Head, HeadRows, head_rows_of
from xent.ops.choice import column
from xent.reduction import reduce_rows
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.terms import LossOptions, LossTerms


class LinearOptions(LossOptions, total=False):
    """The keyword options of `linear_cross_entropy`, for type checkers."""

    linear_bias: Tensor | None
    weight: Tensor | None
    max_memory: int | None
    gradient_filter: float


@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor | SparseTarget,
    *,
    stats: Literal[True],
    **options: Unpack[LinearOptions],
) -> tuple[Tensor, RowStats]: ...
@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor | SparseTarget,
    *,
    stats: Literal[False] = ...,
    **options: Unpack[LinearOptions],
) -> Tensor: ...
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor | SparseTarget,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
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
    gradient_filter: float = 0.0,
    stats: bool = False,
) -> Tensor | tuple[Tensor, RowStats]:
    r"""Cross-entropy of a linear layer's output.

    ::

        logits = input · linear_weightᵀ + linear_bias,   then as `cross_entropy`

    Args:
        input: hidden states, (D,), (N, D) or (…, D); with `dim`, the features in any dimension, such as (N, D, T)
            with dim=1. Floating point.
        linear_weight: (C, D); or (C, d1, …, dK, D) for K-dimensional logits (N, C, d1, …, dK).
        target: class indices of the shape of `input` without the features (K-dimensional: with d1, …, dK after
            them); or class probabilities of the shape of the logits, whose classes stand where the features stood; or a
            `xent.SparseTarget` (not with K-dimensional logits).
        linear_bias: (C,), or (C, d1, …, dK).
        weight: class weights, (C,).
        ignore_index: as in `cross_entropy`; None means −100.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1].
        row_weight: broadcastable to the rows.
        z_loss: ζ ≥ 0.
        softcap: bound of the logits, > 0.
        logit_scale: factor on the logits.
        normalizer: replaces the denominator of the mean.
        dim: dimension of the features in `input`, the last when None.
        shift: score position t against the target at t + shift of the last row dimension; the rows without a target
            cost no product.
        max_memory: bound, in bytes, of the memory beyond inputs and gradients; when None the larger of 64 MiB
            and a tenth of inputs and gradients, on Triton 512 MiB. A backend that can't keep to it raises.
        gradient_filter: τ ≥ 0, off at 0. Allows a backend that makes logits in tiles and keeps none (Triton, where
            `max_memory` leaves it no chunk) to skip a tile whose gradients are all at most τ·|g_n|, g_n the upstream
            gradient of row n. What that leaves out is at most τ·|g_n|·Σ_c |W_cd| of ∂L/∂input_nd and
            τ·Σ_n |g_n·input_nd| of ∂L/∂W_cd. Every other way to compute them is exact.
        stats: also return per-row statistics.

    Returns:
        The loss as `cross_entropy` returns it; float32 for half inputs.

    Gradient:
        With G = d loss / d logits: G · linear_weight for `input`, Gᵀ · input for `linear_weight`, Σ G for
        `linear_bias`. Derivatives of any order and kind.

    Edge cases:
        As `cross_entropy`. Under autocast input, linear_weight and linear_bias are cast as `F.linear` casts them; the
        loss is float32 and gradients keep the dtypes of the tensors.

    Cost:
        On the native backend three products, one more where memory is short and one more in float16, and no more than
        `max_memory`, beside which autograd copies a gradient to undo `shift`, `dim` or autocast; on the reference
        backend N·C logits and what `cross_entropy` makes of them. Ignored rows cost no product on native.
        With no more counted rows than features, native keeps the logits in the memory where the gradient of a trained
        weight will be, beside one tile of them: 16 MiB in float32, up to 4,096 rows.
        Gradients of targets and class weights are filled from the same chunks, at a fourth product. Second derivatives
        hold the logits on every backend.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError, TargetRangeError: as `cross_entropy`, before any work.
        BackendError: `max_memory` is less than the backend needs.

    Source:
        Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", https://arxiv.org/abs/2411.09009.

    Differs from `torch.nn.functional.linear_cross_entropy`: any leading dimensions, any integer target, and the
    options of `xent.cross_entropy`.

    Example:
        >>> import torch, xent
        >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> xent.linear_cross_entropy(hidden, weight, torch.tensor([0]))
        tensor(0.3133)
    """
    terms = LossTerms(
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
        weight=weight,
        row_weight=row_weight,
        z_loss=z_loss,
        softcap=softcap,
        logit_scale=logit_scale,
        reduction=reduction,
        normalizer=normalizer,
    )
    if is_sharded(input, linear_weight, linear_bias, target, weight, row_weight):
        tensors, memory = (input, linear_weight, linear_bias), _checked_memory(max_memory)
        return linear_of_shards(tensors, target, terms, dim, shift, partial(_rows_of_shard, bool(stats), memory))
    head = Head(linear_weight, linear_bias)
    problem = head_rows_of(input, head, target, terms, -1 if dim is None else dim, shift)
    least = _checked_filter(gradient_filter)
    problem = replace(problem, max_memory=_checked_memory(max_memory), gradient_filter=least)
    others = linear_weight, linear_bias, problem.target, problem.probabilities, weight, row_weight
    file = column("linear_cross_entropy", input, *others)
    if stats:
        row_stats = file.rows_with_stats(problem)
        return reduce_rows(row_stats.loss, row_stats.weight, problem.terms), row_stats
    return file.rows(problem)[0] if reduction == "none" else file.total(problem)


def _rows_of_shard(
    stats: bool, max_memory: int | None, hidden: Tensor, given: Callable[[], dict[str, Any]], group: object
) -> CrossEntropyRows:
    """This rank's rows: all their classes are here, or spread over a group."""

    def problem() -> HeadRows:
        options = given()
        head = Head(options.pop("linear_weight"), options.pop("linear_bias"), is_shard=group is not None)
        return replace(head_rows_of(hidden, head, **options), max_memory=max_memory)

    if group is not None:
        return linear_rows_over_classes(ranks_of(group), hidden, problem, stats)
    rows = problem()
    terms = rows.terms
    others = rows.weight, rows.bias, rows.target, rows.probabilities, terms.weight, terms.row_weight
    file = column("linear_cross_entropy", rows.hidden, *others)
    if not stats:
        return CrossEntropyRows(*file.rows(rows))
    row_stats = file.rows_with_stats(rows)
    return CrossEntropyRows(row_stats.loss, row_stats.weight, row_stats)


def _checked_memory(max_memory: int | None) -> int | None:
    if max_memory is None:
        return None
    if isinstance(max_memory, bool) or not isinstance(max_memory, int):
        raise DtypeError(f"max_memory is a {type(max_memory).__name__}", "it counts bytes", "pass int(max_memory)")
    if max_memory <= 0:
        raise OptionError(f"max_memory={max_memory}", "it counts bytes, more than 0", "pass such as 64 * 2**20")
    return max_memory


def _checked_filter(gradient_filter: float) -> float:
    if isinstance(gradient_filter, bool) or not isinstance(gradient_filter, (int, float)):
        raise DtypeError(
            f"gradient_filter is a {type(gradient_filter).__name__}", "it is a number", "pass such as 2**-12"
        )
    if not 0 <= gradient_filter < float("inf"):
        raise OptionError(f"gradient_filter={gradient_filter}", "it must be finite, 0 or more", "pass such as 2**-12")
    return float(gradient_filter)
