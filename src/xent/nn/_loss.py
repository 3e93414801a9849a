from __future__ import annotations

from inspect import unwrap
from typing import Any

from torch import Tensor, nn

from xent import functional
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms


class _Loss(nn.Module):
    """Keyword options of a loss function, those of `LossTerms` checked at construction, and weights as buffers."""

    def __init__(self, options: dict[str, Any], **buffers: Tensor | None) -> None:
        super().__init__()
        LossTerms(**{name: value for name, value in options.items() if name in LossTerms.__dataclass_fields__})
        self.options = options
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def extra_repr(self) -> str:
        """The options that were given."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class CrossEntropyLoss(_Loss):
    """`xent.cross_entropy` as a module.

    Args:
        weight: class weights, (C,); a buffer, so that `.to(device)` moves it.
        **options: the keyword options of `xent.cross_entropy` except `row_weight`, which belongs to a batch.

    Shape, dtype, gradient, edge cases and errors: those of `xent.cross_entropy`.

    Example:
        >>> import torch, xent
        >>> xent.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.2269)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        _check_names(options, functional.cross_entropy)
        super().__init__(options, weight=weight)

    def forward(self, input: Tensor, target: Tensor | SparseTarget, row_weight: Tensor | None = None) -> Any:
        """The loss of one batch; with the option `stats=True`, (loss, `xent.RowStats`)."""
        return functional.cross_entropy(input, target, self.weight, row_weight=row_weight, **self.options)


class NLLLoss(_Loss):
    """`xent.nll_loss` as a module: takes log-probabilities.

    Args:
        weight: class weights, (C,); a buffer.
        **options: the keyword options of `xent.nll_loss` except `row_weight`.

    Shape, dtype, gradient, edge cases and errors: those of `xent.nll_loss`.

    Example:
        >>> import torch, xent
        >>> xent.nn.NLLLoss()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]))
        tensor(0.6931)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        _check_names(options, functional.nll_loss)
        super().__init__(options, weight=weight)

    def forward(self, input: Tensor, target: Tensor, row_weight: Tensor | None = None) -> Tensor:
        """The loss of one batch."""
        return functional.nll_loss(input, target, self.weight, row_weight=row_weight, **self.options)


class BCELoss(_Loss):
    """`xent.binary_cross_entropy` as a module: takes probabilities.

    Args:
        weight: weights of the elements, broadcastable to a batch; a buffer.
        **options: `reduction` and `normalizer`.

    Shape, dtype, gradient, edge cases and errors: those of `xent.binary_cross_entropy`.

    Example:
        >>> import torch, xent
        >>> xent.nn.BCELoss()(torch.tensor([0.5]), torch.tensor([1.0]))
        tensor(0.6931)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, **options: Any) -> None:
        _check_names(options, functional.binary_cross_entropy)
        super().__init__(options, weight=weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch."""
        return functional.binary_cross_entropy(input, target, self.weight, **self.options)


class BCEWithLogitsLoss(_Loss):
    """`xent.binary_cross_entropy_with_logits` as a module: takes logits.

    Args:
        weight: weights of the elements, broadcastable to a batch; a buffer.
        pos_weight: weights of the positives, broadcastable to a batch; a buffer.
        **options: `reduction` and `normalizer`.

    Shape, dtype, gradient, edge cases and errors: those of `xent.binary_cross_entropy_with_logits`.

    Example:
        >>> import torch, xent
        >>> xent.nn.BCEWithLogitsLoss()(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor(0.6931)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, pos_weight: Tensor | None = None, **options: Any) -> None:
        _check_names(options, functional.binary_cross_entropy_with_logits)
        super().__init__(options, weight=weight, pos_weight=pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch."""
        return functional.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, **self.options
        )


def _check_names(options: dict[str, Any], function: Any) -> None:
    """Raise TypeError, as Python does, for an option that the function does not have."""
    allowed = set(unwrap(function).__kwdefaults__) - {"row_weight", "pos_weight", "linear_bias", "weight"}
    for name in options:
        if name not in allowed:
            raise TypeError(f"unexpected option {name!r}; {function.__name__} has {', '.join(sorted(allowed))}")
