from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from xent import functional
from xent.errors import ShapeError
from xent.nn._loss import _check_names, _Loss
from xent.sparse_target import SparseTarget


class LinearCrossEntropyLoss(_Loss):
    """A linear layer and the cross-entropy of its output, `xent.linear_cross_entropy` as a module.

    The layer is `self.linear`, as in `torch.nn.LinearCrossEntropyLoss`, so that state dicts fit both ways. To tie its
    weight to an embedding: `loss.linear.weight = embedding.weight`.

    Args:
        in_features: D.
        num_classes: C.
        out_features: d1, …, dK of K-dimensional logits.
        bias: whether the layer has a bias.
        device: where its parameters are made.
        dtype: of its parameters.
        weight: class weights, (C,); a buffer.
        **options: the keyword options of `xent.linear_cross_entropy` except `row_weight` and `linear_bias`.

    Shape, dtype, gradient, edge cases and errors: those of `xent.linear_cross_entropy`; a class weight of the wrong
    length raises `ShapeError` at once.

    Example:
        >>> import torch, xent
        >>> loss = xent.nn.LinearCrossEntropyLoss(4, 3)
        >>> _ = torch.nn.init.zeros_(loss.linear.weight)
        >>> loss(torch.ones(2, 4), torch.tensor([0, 2])).detach()
        tensor(1.0986)
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
        **options: Any,
    ) -> None:
        _check_names(options, functional.linear_cross_entropy)
        if isinstance(weight, Tensor) and weight.shape != (num_classes,):
            raise ShapeError(
                f"weight has shape {tuple(weight.shape)}",
                f"class weights need shape ({num_classes},)",
                "pass one weight for each class",
            )
        if options.get("ignore_index", 0) is None:
            del options["ignore_index"]  # torch's default, which means -100
        super().__init__(options, weight=weight)
        self.shape = (num_classes, *out_features)
        self.linear = nn.Linear(in_features, math.prod(self.shape), bias, device, dtype)

    def forward(self, input: Tensor, target: Tensor | SparseTarget, row_weight: Tensor | None = None) -> Any:
        """The loss of one batch; with the option `stats=True`, (loss, `xent.RowStats`)."""
        bias = self.linear.bias
        return functional.linear_cross_entropy(
            input,
            self.linear.weight.unflatten(0, self.shape),
            target,
            linear_bias=None if bias is None else bias.unflatten(0, self.shape),
            weight=self.weight,
            row_weight=row_weight,
            **self.options,
        )
