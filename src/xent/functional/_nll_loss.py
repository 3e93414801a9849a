from __future__ import annotations

from torch import Tensor

from xent.errors import DtypeError
from xent.ops.choice import column
from xent.problem import rows_of
from xent.reduction import reduce_rows
from xent.terms import LossTerms


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    row_weight: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    dim: int | None = None,
    shift: int = 0,
) -> Tensor:
    r"""Negative log likelihood of log-probabilities.

    ::

        row loss = −r · w[target] · input[target]
        weight   = r · w[target]            (0 for an ignored row)
        mean     = Σ row loss / Σ weight    (or / normalizer)

    Args:
        input: log-probabilities, (C,), (N, C) or (N, C, d1, …); with `dim`, classes in any dimension. Not checked to
            be normalised.
        target: class indices of any integer dtype and the shape of `input` without the classes.
        weight: class weights w, (C,).
        ignore_index: rows with this target do not count.
        reduction: "mean", "sum", or "none" for one loss per row.
        row_weight: r, broadcastable to the rows.
        normalizer: replaces the denominator of the mean.
        dim: dimension of the classes; torch's rule (1, or 0 for one row) when None.
        shift: score position t against the target at t + shift.

    Returns:
        The loss in nats: a scalar, or the shape of the rows; float32 for half inputs, else the input's dtype.

    Gradient:
        −r·w[target] (over the denominator) at the target's class, 0 elsewhere. Derivatives of any order and kind.

    Edge cases:
        A log-probability of −inf at the target costs +inf, elsewhere nothing. Empty, or all ignored: the mean is NaN
        as in torch, 0 with `normalizer`.

    Cost:
        One number of each row is read. Memory: a few numbers for each row, whatever C is; the gradient is one tensor
        of the size of `input`, 0 but for the targets.

    Raises:
        ShapeError, DtypeError, DeviceError, OptionError, TargetRangeError: as `cross_entropy`.

    Source:
        Bishop, *Pattern Recognition and Machine Learning*, equation 4.108.

    Differs from `torch.nn.functional.nll_loss`: any integer target, `row_weight`, `normalizer`, `dim`, `shift`,
    float32 losses for half inputs. From `cross_entropy`: takes log-probabilities, not logits.

    Example:
        >>> import torch, xent
        >>> xent.nll_loss(torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([0, 1]))
        tensor(1.4979)
    """
    terms = LossTerms(
        ignore_index=ignore_index,
        weight=weight,
        row_weight=row_weight,
        reduction=reduction,
        normalizer=normalizer,
    )
    problem = rows_of(input, target, terms, dim, shift)
    if not problem.is_hard:
        raise DtypeError(
            f"target has the shape of input, {tuple(input.shape)}" if problem.is_dense else "target is a SparseTarget",
            "nll_loss takes class indices",
            "pass target.argmax(1), or logits and probabilities to xent.cross_entropy",
        )
    loss, row_totals = column("nll_loss", input, problem.target, weight, row_weight).rows(problem)
    return reduce_rows(loss, row_totals, terms)
