"""From a linear layer and its hidden states to a canonical problem whose logits nobody has made yet.

hidden (*rows, D)     weight (C·K, D), bias (C·K)     target (*rows, *extra) or (*rows, *extra, C),  K = Π extra
                                                      or sparse: (*rows, k) and as many probabilities
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.errors import DtypeError, OptionError, ShapeError
from xent.problem import LogitsLayout, canonical_target, check_device, check_floating, checked_dim, drop_last
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms


@dataclass(frozen=True, eq=False)
class Head:
    """A linear layer as its caller gave it.

    Attributes:
        weight: (C, D), or (C, d1, …, dK, D).
        bias: (C,), or (C, d1, …, dK), or None.
        is_shard: whether it makes some of the classes only; the others are another rank's.
    """

    weight: Tensor
    bias: Tensor | None
    is_shard: bool = False

    @property
    def num_classes(self) -> int:
        """C."""
        return self.weight.shape[0]

    @property
    def extra_shape(self) -> tuple[int, ...]:
        """(d1, …, dK)."""
        return tuple(self.weight.shape[1:-1])


@dataclass(frozen=True, eq=False)
class HeadRows:
    """The canonical form of one linear + cross-entropy problem.

    Attributes:
        hidden: (*rows, D), a view of the caller's tensor.
        weight: (C·K, D), the classes outermost.
        bias: (C·K,) or None.
        extra_shape: (d1, …, dK), empty but for K-dimensional logits.
        target: (*rows, *extra) int64 class indices, or (*rows, *extra, C) probabilities; or (*rows, k) int64 class
            indices of a sparse target.
        terms: the options, with `row_weight` expanded to (*rows, *extra).
        max_memory: bound of the memory beyond inputs and gradients, in bytes; None leaves it to the backend.
        probabilities: (*rows, k) of a sparse target, else None.
        gradient_filter: a backend may leave out of a gradient what parts of the logits add whose gradients are all at
            most this times the upstream gradient of their row; 0 for none.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    extra_shape: tuple[int, ...]
    target: Tensor
    terms: LossTerms
    max_memory: int | None = None
    probabilities: Tensor | None = None
    gradient_filter: float = 0.0
    trains_weight: bool = False

    @property
    def num_classes(self) -> int:
        """C."""
        return self.weight.shape[0] // self.extra_shape_product

    @property
    def extra_shape_product(self) -> int:
        """K."""
        product = 1
        for size in self.extra_shape:
            product *= size
        return product

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of the rows of the loss: (*rows, *extra)."""
        return (*self.hidden.shape[:-1], *self.extra_shape)

    @property
    def is_hard(self) -> bool:
        """Whether targets are class indices."""
        return self.target.ndim == len(self.row_shape)

    @property
    def is_dense(self) -> bool:
        """Whether targets are probabilities of all classes."""
        return self.probabilities is None and not self.is_hard

    def logit_rows(self, logits: Tensor) -> Tensor:
        """Logits (*rows, C·K) as a view (*rows, *extra, C)."""
        if not self.extra_shape:
            return logits
        return logits.unflatten(-1, (self.num_classes, *self.extra_shape)).movedim(self.hidden.ndim - 1, -1)


def head_rows_of(
    input: Tensor, head: Head, target: Tensor | SparseTarget, terms: LossTerms, dim: int, shift: int
) -> HeadRows:
    """Check a call of `linear_cross_entropy` and bring it to its canonical form."""
    check_floating("input", input)
    check_floating("linear_weight", head.weight)
    _check_dimensions(input, head.weight)
    dim = checked_dim(dim, input)
    check_device("linear_weight", head.weight, input.device)
    _check_fits(input, head.weight, dim)
    _check_bias(head, input)
    shape = (*input.shape[:dim], head.num_classes, *head.extra_shape, *input.shape[dim + 1 :])
    layout = LogitsLayout(shape, dim, input.device, head.is_shard)
    if head.extra_shape and isinstance(target, SparseTarget):
        raise OptionError(
            "a sparse target with K-dimensional linear_weight",
            "a sparse target has k entries for each hidden state",
            "pass linear_weight of shape (C, D), or probabilities of all classes",
        )
    indices, probabilities, terms = canonical_target(layout, target, terms, shift)
    if shift and head.extra_shape:
        raise OptionError(
            f"shift={shift} with K-dimensional linear_weight",
            "a shift runs along a sequence of hidden states",
            "pass linear_weight of shape (C, D)",
        )
    bias = None if head.bias is None else head.bias.flatten()
    hidden = drop_last(input.movedim(dim, -1), shift, dim=-2)
    return HeadRows(
        hidden,
        head.weight.flatten(0, -2),
        bias,
        head.extra_shape,
        indices,
        terms,
        probabilities=probabilities,
        trains_weight=head.weight.requires_grad,
    )


def _check_dimensions(input: Tensor, weight: Tensor) -> None:
    if input.ndim == 0:
        raise ShapeError("input is a scalar", "it needs a dimension of features", "pass shape (D,) or (N, D)")
    if weight.ndim < 2:
        raise ShapeError(
            f"linear_weight has shape {tuple(weight.shape)}", "it is (C, D)", "pass the weight of a Linear"
        )


def _check_fits(input: Tensor, weight: Tensor, dim: int) -> None:
    if 0 in weight.shape[1:-1]:
        raise ShapeError(
            f"linear_weight has shape {tuple(weight.shape)}",
            "K-dimensional logits need at least one place for their classes",
            "pass linear_weight of shape (C, d1, …, dK, D) without a 0 among the d",
        )
    if weight.shape[-1] != input.shape[dim]:
        raise ShapeError(
            f"input of shape {tuple(input.shape)} has {input.shape[dim]} features in dim {dim} and linear_weight "
            f"{tuple(weight.shape)} takes {weight.shape[-1]}",
            "the two must be equal",
            "pass linear_weight as (C, D), as nn.Linear holds it, or the right dim=",
        )
    if weight.ndim > 2 and (input.ndim < 2 or dim != input.ndim - 1):
        raise ShapeError(
            f"input of shape {tuple(input.shape)} with features in dim {dim} and linear_weight {tuple(weight.shape)}",
            "K-dimensional logits need batched input with the features last",
            "pass input of shape (N, D)",
        )
    _check_one_dtype("linear_weight", weight, input)


def _check_one_dtype(name: str, tensor: Tensor, input: Tensor) -> None:
    if tensor.dtype != input.dtype and product_dtype(tensor) != product_dtype(input):
        under = torch.is_autocast_enabled(input.device.type)
        raise DtypeError(
            f"input is {input.dtype} and {name} {tensor.dtype}",
            "a product needs one dtype, and autocast leaves float64 alone"
            if under
            else "a product needs one dtype outside autocast",
            f"pass {name}.to(input.dtype)",
        )


def is_flat(tensor: Tensor, lead: int) -> bool:
    """Whether the first `lead` dimensions are one in memory, so that a view can make them one."""
    if tensor.numel() == 0:
        return True
    sizes = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)][:lead]
    sizes = [(size, stride) for size, stride in sizes if size != 1]
    return all(outer == size * stride for (_, outer), (size, stride) in itertools.pairwise(sizes))


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a product takes the tensor: its own, or what autocast makes of it."""
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(tensor.device.type):
        return tensor.dtype
    return torch.get_autocast_dtype(tensor.device.type)


def _check_bias(head: Head, input: Tensor) -> None:
    if head.bias is None:
        return
    check_floating("linear_bias", head.bias)
    check_device("linear_bias", head.bias, input.device)
    _check_one_dtype("linear_bias", head.bias, input)
    if head.bias.shape != head.weight.shape[:-1]:
        raise ShapeError(
            f"linear_bias has shape {tuple(head.bias.shape)}",
            f"it needs one entry for each logit, {tuple(head.weight.shape[:-1])}",
            "pass the bias of the same Linear",
        )
