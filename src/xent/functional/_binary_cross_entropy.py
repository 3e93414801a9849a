from __future__ import annotations

import torch
from torch import Tensor

from xent.errors import DtypeError, ProbabilityError, ShapeError
from xent.ops.choice import column
from xent.problem import check_device, check_floating, stats_dtype, values_are_readable
from xent.reduction import reduce_rows
from xent.terms import LossTerms


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy between probabilities and targets.

    ::

        loss = −w · (t · ln x + (1 − t) · ln(1 − x)),   each logarithm at least −100
        mean = Σ loss / number of elements              (or / normalizer)

    Args:
        input: probabilities in [0, 1], any shape, floating point.
        target: the same shape, in [0, 1]; any dtype.
        weight: w, broadcastable to `input`.
        reduction: "mean", "sum" or "none".
        normalizer: replaces the number of elements.

    Returns:
        The loss in nats: a scalar, or the shape of `input`; float32 for half inputs, else the input's dtype.

    Gradient:
        w · (x − t) / max(x(1 − x), 1e-12), as torch. Also with respect to `target` and `weight`. Derivatives of any
        order.

    Edge cases:
        x = 0 with t = 1 costs 100, not ∞ (torch's bound); the gradient with respect to `target` is ±∞ at x = 0 and
        x = 1, as in torch, whose bound is on the value alone. NaN is refused on CPU. Empty: the mean is NaN.

    Cost:
        Memory: several times the input; half inputs and targets are copied to float32 first. The check of the range
        reads input and target once more on CPU. Every backend runs torch's own operation.

    Raises:
        ShapeError: shapes that differ.
        DtypeError: input that is not floating point.
        ProbabilityError: input or target outside [0, 1]; on CPU, outside `torch.compile` and `vmap`.
        OptionError, DeviceError: as `cross_entropy`.

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html

    Differs from `torch.nn.functional.binary_cross_entropy`: integer targets, `normalizer`, float32 losses for half
    inputs. Prefer `binary_cross_entropy_with_logits`, which stays exact where a sigmoid saturates.

    Example:
        >>> import torch, xent
        >>> xent.binary_cross_entropy(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
        tensor(0.1643)
    """
    terms = LossTerms(reduction=reduction, normalizer=normalizer)
    x, t, w, _ = _elements(input, target, weight, None)
    _check_probabilities("input", x, "pass torch.sigmoid(logits), or the logits to binary_cross_entropy_with_logits")
    _check_probabilities("target", t, "pass probabilities; class indices belong to xent.cross_entropy")
    loss = column("binary_cross_entropy", input, t, w).elements(x, t, w)
    return reduce_rows(loss, torch.ones_like(loss), terms)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy between logits and targets.

    ::

        loss = −w · (ω · t · ln σ(x) + (1 − t) · ln(1 − σ(x)))
        mean = Σ loss / number of elements              (or / normalizer)

    Args:
        input: logits, any shape, floating point.
        target: the same shape, any dtype; between 0 and 1 (not checked: torch takes any value).
        weight: w, broadcastable with `input`.
        reduction: "mean", "sum" or "none".
        pos_weight: ω, the weight of the positives, broadcastable with `input`.
        normalizer: replaces the number of elements.

    Returns:
        The loss in nats: a scalar, or the shape of the elements; float32 for half inputs, else the input's dtype.

    Gradient:
        w · ((1 − t)·σ(x) − ω·t·(1 − σ(x))); for ω = 1 that is w·(σ(x) − t). Derivatives of any order and kind.

    Edge cases:
        Exact at any finite logit: both terms have one sign, so that a sure and right one keeps its small loss (torch's
        formula leaves 0 at x = −16). An infinite logit gives ∞ on the wrong side and NaN on the right one (0·∞), as in
        torch, which gives NaN at −∞ on both. Empty: the mean is NaN.

    Cost:
        The native kernel reads input, target and weights once and writes the loss of every element once; its gradient
        reads them once more and writes one tensor of the size of `input`. The reference backend makes several copies.
        Half inputs, and targets and weights of another dtype than the loss, are copied first.

    Raises:
        ShapeError: input and target of different shapes, or weights that do not broadcast with them.
        DtypeError, DeviceError, OptionError: as `cross_entropy`.

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html

    Differs from `torch.nn.functional.binary_cross_entropy_with_logits`: `normalizer`, float32 losses for half inputs.

    Example:
        >>> import torch, xent
        >>> xent.binary_cross_entropy_with_logits(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
        tensor(0.2201)
    """
    terms = LossTerms(reduction=reduction, normalizer=normalizer)
    x, t, w, positives = _elements(input, target, weight, pos_weight)
    loss = column("binary_cross_entropy_with_logits", input, t, w, positives).elements(x, t, w, positives)
    return reduce_rows(loss, torch.ones_like(loss), terms)


def _elements(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The tensors of one call, checked, in the dtype of the statistics."""
    check_floating("input", input)
    check_device("target", target, input.device)
    if target.shape != input.shape:
        raise ShapeError(
            f"target has shape {tuple(target.shape)} and input {tuple(input.shape)}",
            "each element of input has its target",
            "pass target.reshape(input.shape) if their order agrees, or target.float().unsqueeze(1) for input (N, 1)",
        )
    _check_real("target", target)
    dtype = stats_dtype(input.dtype)
    return (
        input.to(dtype),
        target.to(dtype),
        _broadcastable("weight", weight, input, dtype),
        _broadcastable("pos_weight", pos_weight, input, dtype),
    )


def _check_real(name: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise DtypeError(f"{name} has dtype {tensor.dtype}", f"{name}s are real", f"pass {name}.real")


def _broadcastable(name: str, weight: Tensor | None, input: Tensor, dtype: torch.dtype) -> Tensor | None:
    if weight is None:
        return None
    check_device(name, weight, input.device)
    _check_real(name, weight)
    try:
        shape = torch.broadcast_shapes(weight.shape, input.shape)
    except RuntimeError as error:
        raise ShapeError(
            f"{name} has shape {tuple(weight.shape)}",
            f"it must broadcast to input {tuple(input.shape)}",
            "pass one value for each element, column or row",
        ) from error
    if shape != input.shape:
        raise ShapeError(
            f"{name} of shape {tuple(weight.shape)} would enlarge input {tuple(input.shape)} to {tuple(shape)}",
            "a weight belongs to an element of input",
            "give input its full shape first",
        )
    return weight.to(dtype).expand(shape)


def _check_probabilities(name: str, value: Tensor, do: str) -> None:
    if not values_are_readable(value) or value.numel() == 0:
        return
    low, high = (float(bound) for bound in torch.aminmax(value.detach()))
    if low >= 0 and high <= 1:  # false for NaN
        return
    raise ProbabilityError(f"{name} lies in [{low:g}, {high:g}]", "probabilities lie in [0, 1]", do)
