from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from xent.errors import BackendError, DtypeError, OptionError, ShapeError
from xent.functional._cross_entropy import loss_of_rows
from xent.ops.choice import column
from xent.problem import (
    LogitsLayout,
    Rows,
    canonical_target,
    check_device,
    check_floating,
    checked_dim,
    drop_last,
)
from xent.row_stats import RowStats
from xent.terms import LossOptions, LossTerms


class LinearOptions(LossOptions, total=False):
    """The keyword options of `linear_cross_entropy`, for type checkers."""

    linear_bias: Tensor | None
    weight: Tensor | None
    max_memory: int | None


@overload
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, stats: Literal[True], **options: Unpack[LinearOptions]
) -> tuple[Tensor, RowStats]: ...
@overload
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    stats: Literal[False] = ...,
    **options: Unpack[LinearOptions],
) -> Tensor: ...
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
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
            them); or class probabilities of the shape of the logits, whose classes stand where the features stood.
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
        max_memory: bound, in bytes, of the memory for logits. The reference backend holds the logits whole and raises
            where they are larger.
        stats: also return per-row statistics.

    Returns:
        The loss as `cross_entropy` returns it; float32 for half inputs.

    Gradient:
        With G = d loss / d logits: G · linear_weight for `input`, Gᵀ · input for `linear_weight`, Σ G for
        `linear_bias`. Derivatives of any order and kind.

    Edge cases:
        As `cross_entropy`.

    Cost:
        On the reference backend N·C logits and what `cross_entropy` makes of them.

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
    head = _head_of(input, linear_weight, linear_bias, -1 if dim is None else dim)
    target, terms = canonical_target(head.layout, target, terms, shift)
    logits = column("linear_cross_entropy", input).logits(*head.tensors(shift, max_memory))
    if head.extra_shape:
        logits = logits.unflatten(-1, (head.layout.num_classes, *head.extra_shape)).movedim(head.layout.class_dim, -1)
    return loss_of_rows(Rows(logits, target, terms), stats)


@dataclass(frozen=True, eq=False)
class _Head:
    """A checked linear layer: features last, one row of the weight for each logit."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    layout: LogitsLayout
    extra_shape: tuple[int, ...]

    def tensors(self, shift: int, max_memory: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states (without those that no target stands behind), weight and bias."""
        if shift and self.extra_shape:
            raise OptionError(
                f"shift={shift} with K-dimensional linear_weight",
                "a shift runs along a sequence of hidden states",
                "pass linear_weight of shape (C, D)",
            )
        hidden = drop_last(self.hidden, shift, dim=-2)
        if max_memory is not None:
            need = hidden[..., 0].numel() * self.weight.shape[0] * hidden.element_size()
            if need > max_memory:
                raise BackendError(
                    f"max_memory={max_memory} bytes",
                    f"the reference backend holds the logits whole, {need} bytes",
                    "raise max_memory, or pass fewer rows at a time",
                )
        return hidden, self.weight, self.bias


def _head_of(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, dim: int) -> _Head:
    check_floating("input", input)
    check_floating("linear_weight", linear_weight)
    if input.ndim == 0:
        raise ShapeError("input is a scalar", "it needs a dimension of features", "pass shape (D,) or (N, D)")
    if linear_weight.ndim < 2:
        raise ShapeError(
            f"linear_weight has shape {tuple(linear_weight.shape)}", "it is (C, D)", "pass the weight of a Linear"
        )
    dim = checked_dim(dim, input)
    check_device("linear_weight", linear_weight, input.device)
    _check_head_fits(input, linear_weight, dim)
    num_classes, *extra = linear_weight.shape[:-1]
    rows_before, rows_after = tuple(input.shape[:dim]), tuple(input.shape[dim + 1 :])
    layout = LogitsLayout((*rows_before, num_classes, *extra, *rows_after), dim, input.device)
    bias = _bias_of(linear_bias, linear_weight, input)
    return _Head(input.movedim(dim, -1), linear_weight.flatten(0, -2), bias, layout, tuple(extra))


def _check_head_fits(input: Tensor, linear_weight: Tensor, dim: int) -> None:
    if linear_weight.shape[-1] != input.shape[dim]:
        raise ShapeError(
            f"input of shape {tuple(input.shape)} has {input.shape[dim]} features in dim {dim} and linear_weight "
            f"{tuple(linear_weight.shape)} takes {linear_weight.shape[-1]}",
            "the two must be equal",
            "pass linear_weight as (C, D), as nn.Linear holds it, or the right dim=",
        )
    if linear_weight.ndim > 2 and (input.ndim < 2 or dim != input.ndim - 1):
        raise ShapeError(
            f"input of shape {tuple(input.shape)} with features in dim {dim} and linear_weight "
            f"{tuple(linear_weight.shape)}",
            "K-dimensional logits need batched input with the features last",
            "pass input of shape (N, D)",
        )
    _check_one_dtype("linear_weight", linear_weight, input)


def _check_one_dtype(name: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise DtypeError(
            f"input is {input.dtype} and {name} {tensor.dtype}",
            "a product needs one dtype outside autocast",
            f"pass {name}.to(input.dtype)",
        )


def _bias_of(bias: Tensor | None, linear_weight: Tensor, input: Tensor) -> Tensor | None:
    if bias is None:
        return None
    check_floating("linear_bias", bias)
    check_device("linear_bias", bias, input.device)
    _check_one_dtype("linear_bias", bias, input)
    if bias.shape != linear_weight.shape[:-1]:
        raise ShapeError(
            f"linear_bias has shape {tuple(bias.shape)}",
            f"it needs one entry for each logit, {tuple(linear_weight.shape[:-1])}",
            "pass the bias of the same Linear",
        )
    return bias.flatten()
