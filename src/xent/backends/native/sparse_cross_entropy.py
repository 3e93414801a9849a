"""Cross-entropy of logits with a sparse target: the row kernels without a target, then the entries of each row.

The kernels give log-sum-exp, statistics and the part of smoothing, which is that of a hard target with smoothing 1;
their gradient is that of these. What the k entries of a row add is read from the logits and set in the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.backends.native.target_entries import RowGradients, TargetEntries, entry_gradient, scaled, target_entries
from xent.problem import HALF, Rows, counted_mask, safe_target

if TYPE_CHECKING:
    from xent.backends.native import _kernels
    from xent.backends.native.cross_entropy import Saved


def forward(problem: Rows, with_stats: bool) -> dict[str, Tensor]:
    """Values of every row, as `cross_entropy.forward` gives them."""
    from xent.backends.native import _kernels

    count, dtype = problem.logits.shape[:-1].numel(), problem.stats_dtype
    names = ("loss", "weight", "lse", "entropy") if with_stats else ("loss", "weight")
    values = {name: torch.empty(count, dtype=dtype) for name in names}
    values |= {name: torch.empty(count, dtype=torch.float64) for name in ("exact_lse", "lse_low")}
    if with_stats:
        values["prediction"] = torch.empty(count, dtype=torch.int64)
    counted = _counted(problem)
    _kernels.cross_entropy(_without_target(problem, counted, backward=False), values, torch.get_num_threads())
    weight = _row_weight(problem, counted)
    loss = weight * _cross_entropy(problem, values)
    if problem.terms.z_loss:
        loss = loss + weight * problem.terms.z_loss * values["exact_lse"].square()
    values["loss"] = loss.masked_fill(~counted, 0).to(dtype)
    values["weight"] = weight.to(dtype)
    return values


def write_gradient(
    problem: Rows,
    saved: Saved,
    buffer: Tensor,
    loss: Tensor | None,
    lse: Tensor | None,
    entropy: Tensor | None,
    *,
    streaming: bool,
) -> None:
    """dL/dlogits into `buffer`, which may be the logits: the entries are read first and set last."""
    from xent.backends.native import _kernels

    counted, entries = _counted(problem), _entries(problem)
    row = _row_gradients(problem, entries, saved, (loss, lse, entropy))
    index = entries.index.reshape(problem.target.shape)
    x = problem.logits.detach().gather(-1, index).reshape(entries.index.shape).double()
    at_entries = entry_gradient(x, entries.total, problem.terms, row.beside_entries())
    at_entries = at_entries.masked_fill(~counted.unsqueeze(1), 0).to(buffer.dtype)
    smoothing, dtype = problem.terms.label_smoothing, problem.stats_dtype
    upstream = _kernels.Upstream(
        (smoothing * row.target).to(dtype) if smoothing else None,
        row.lse.to(dtype),
        entropy,
        saved.exact_lse,
        saved.entropy,
        None,
        saved.lse_low,
    )
    made = _without_target(problem, counted, backward=True)
    _kernels.cross_entropy_gradient(made, upstream, buffer.detach(), streaming, torch.get_num_threads())
    _bits(buffer).scatter_(-1, index, _bits(at_entries).reshape(index.shape))


def _bits(numbers: Tensor) -> Tensor:
    """Half numbers as integers: torch would scatter into a float32 copy of all of them."""
    return numbers.view(torch.int16) if numbers.dtype in HALF else numbers


def _counted(problem: Rows) -> Tensor:
    counted = counted_mask(problem)
    return torch.ones(0, dtype=torch.bool) if counted is None else counted.reshape(-1)


def _row_weight(problem: Rows, counted: Tensor) -> Tensor:
    """What multiplies the cross-entropy of each row and what the row weighs, float64: of an ignored row 0."""
    weight = problem.terms.row_weight
    if weight is None:
        return counted.double()
    return weight.detach().double().reshape(-1).masked_fill(~counted, 0)


def _class_weight(problem: Rows) -> Tensor | None:
    weight = problem.terms.weight
    return None if weight is None else weight.detach().to(problem.stats_dtype).contiguous()


def _class_weight_sum(problem: Rows) -> float:
    weight = _class_weight(problem)
    return float(problem.num_classes if weight is None else weight.sum(dtype=torch.float64))


def _entries(problem: Rows) -> TargetEntries:
    shape = problem.target.shape[:-1].numel(), problem.target.shape[-1]  # not −1: there may be no rows
    probabilities = None if problem.probabilities is None else problem.probabilities.reshape(shape)
    return target_entries(
        safe_target(problem).reshape(shape),
        probabilities,
        _class_weight(problem),
        problem.num_classes,
        problem.terms.label_smoothing,
    )


def _cross_entropy(problem: Rows, values: dict[str, Tensor]) -> Tensor:
    """−Σ_c w_c q_c ln p_c of every row, float64."""
    smoothing, smooth = problem.terms.label_smoothing, values["loss"].double()
    if smoothing == 1:  # the entries count 0 times what may be infinite
        return smooth
    entries = _entries(problem)
    index = entries.index.reshape(problem.target.shape)
    x = problem.logits.detach().gather(-1, index).reshape(entries.index.shape).double()
    z, _ = scaled(x, problem.terms)
    surprisal = (values["exact_lse"].unsqueeze(1) - z) + values["lse_low"].unsqueeze(1)
    return entries.loss(surprisal) + smoothing * smooth if smoothing else entries.loss(surprisal)


def _row_gradients(
    problem: Rows, entries: TargetEntries, saved: Saved, upstream: tuple[Tensor | None, Tensor | None, Tensor | None]
) -> RowGradients:
    """The upstream gradients folded into what multiplies p_c and t_c."""
    loss, lse, entropy = (None if g is None else g.double() for g in upstream)
    counted, terms = _counted(problem), problem.terms
    g = _row_weight(problem, counted) * (torch.zeros(len(counted), dtype=torch.float64) if loss is None else loss)
    smooth = terms.label_smoothing * _class_weight_sum(problem) / problem.num_classes
    of_lse = g * (entries.mass.sum(1) + smooth) + 2 * terms.z_loss * g * saved.exact_lse
    if lse is not None:
        of_lse = of_lse + lse
    low = torch.zeros_like(g) if saved.lse_low is None else saved.lse_low
    saved_entropy = None if saved.entropy is None else saved.entropy.double()
    return RowGradients(g, of_lse, saved.exact_lse, low, entropy, saved_entropy)


def _without_target(problem: Rows, counted: Tensor, *, backward: bool) -> _kernels.Problem:
    """The rows as a problem of their dense part alone, without row weight and z-term; −1 marks the ignored ones.

    Backward, the sum of the class weights is given as 0: the gradient of the smoothing then has no p_c of its own.
    """
    from xent.backends.native import _kernels

    terms = problem.terms
    target = torch.where(counted, 0, -1)
    made = _kernels.Problem(problem.logits.detach(), target, None, _class_weight(problem), None)
    smoothing = 1.0 if terms.label_smoothing else 0.0
    total = 0.0 if backward else _class_weight_sum(problem)
    made.set_options(-1, smoothing, 0.0, terms.softcap or 0.0, terms.logit_scale, total)
    return made
