"""Cross-entropy of logits, row by row.

z       = softcap · tanh(logit_scale · x / softcap)            x: logits (*rows, C)
ln p    = z − logsumexp(z)
ce      = −Σ_c w_c q_c ln p_c                                  q = (1 − ε) · target + ε / C
loss    = r · ce + weight · ζ · logsumexp(z)²                  weight = r · w[target], or r for probabilities
"""

from __future__ import annotations

import torch
from torch import Tensor

from xent.problem import Rows, counted_mask, nan_where_out_of_range, safe_target, true_class
from xent.reduction import reduce_rows
from xent.row_stats import RowStats
from xent.terms import LossTerms

LOOKS_AT_TARGETS = False  # whoever calls has looked for class indices out of range


def total(problem: Rows) -> Tensor:
    """The sum or mean over the rows."""
    return reduce_rows(*rows(problem), problem.terms)


def rows(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows)."""
    z = scaled_logits(_counted_logits(problem), problem.terms, problem.stats_dtype)
    return _loss_and_weight(problem, z, z.log_softmax(-1))


def rows_with_stats(problem: Rows) -> RowStats:
    """Loss, weight and statistics of every row."""
    z = scaled_logits(_counted_logits(problem), problem.terms, problem.stats_dtype)
    log_p = z.log_softmax(-1)
    loss, weight = _loss_and_weight(problem, z, log_p)
    counted = counted_mask(problem)
    lse = _where(counted, z.logsumexp(-1))
    prediction = z.argmax(-1)
    is_true = prediction == true_class(problem)
    return RowStats(
        loss=loss,
        lse=lse,
        entropy=_where(counted, entropy(log_p)),
        z_loss=problem.terms.z_part(weight, lse),
        prediction=prediction if counted is None else prediction.masked_fill(~counted, -1),
        correct=is_true if counted is None else is_true & counted,
        weight=weight,
    )


def _counted_logits(problem: Rows) -> Tensor:
    """The logits with zeros in ignored rows: an infinity there would make 0 · ∞ of a gradient that is masked later."""
    counted = counted_mask(problem)
    return problem.logits if counted is None else problem.logits.masked_fill(~counted.unsqueeze(-1), 0)


def scaled_logits(logits: Tensor, terms: LossTerms, dtype: torch.dtype) -> Tensor:
    """The logits in the dtype of the statistics, after scale and soft cap."""
    z = logits.to(dtype)
    if terms.logit_scale != 1.0:
        z = z * terms.logit_scale
    if terms.softcap is not None:
        z = terms.softcap * torch.tanh(z / terms.softcap)
    return z


def entropy(log_p: Tensor) -> Tensor:
    """−Σ p ln p over the classes, in nats; a class of probability 0 adds 0."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0)).sum(-1)


def _loss_and_weight(problem: Rows, z: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    terms = problem.terms
    if problem.probabilities is not None:
        loss, weight = _sparse(problem, problem.probabilities, log_p)
    else:
        loss, weight = _hard(problem, log_p) if problem.is_hard else _soft(problem, log_p)
    if terms.row_weight is not None:
        row_weight = terms.row_weight.to(loss.dtype)
        loss, weight = loss * row_weight, weight * row_weight
    if terms.z_loss:
        loss = loss + weight * terms.z_loss * z.logsumexp(-1).square()
    counted, mark = counted_mask(problem), nan_where_out_of_range(problem)
    if mark is not None:
        loss, weight = loss * mark, weight * mark
    return _where(counted, loss), _where(counted, weight)


def _hard(problem: Rows, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Class indices: (1 − ε) w[y] (−ln p_y) + (ε / C) Σ_c w_c (−ln p_c)."""
    class_weight, target = class_weight_of(problem), safe_target(problem)
    loss = -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    weight = torch.ones_like(loss) if class_weight is None else class_weight_at(class_weight, target)
    if class_weight is not None:
        loss = weight * loss
    return _smoothed(problem, loss, log_p, class_weight), weight


def _sparse(problem: Rows, q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """A few probabilities: (1 − ε) Σ_j q_j w_j (−ln p_j) + (ε / C) Σ_c w_c (−ln p_c); 0 · ln 0 = 0 as below."""
    q, class_weight, index = q.to(log_p.dtype), class_weight_of(problem), safe_target(problem)
    log_p_j = log_p.gather(-1, index)
    terms = q * log_p_j.masked_fill((q == 0) & (log_p_j == -torch.inf), 0)
    if class_weight is not None:
        terms = terms * class_weight_at(class_weight, index)
    loss = -terms.sum(-1)
    return _smoothed(problem, loss, log_p, class_weight), torch.ones_like(loss)


def _smoothed(problem: Rows, loss: Tensor, log_p: Tensor, class_weight: Tensor | None) -> Tensor:
    """(1 − ε) · loss + (ε / C) Σ_c w_c (−ln p_c)."""
    smoothing = problem.terms.label_smoothing
    if not smoothing:
        return loss
    weighted = log_p if class_weight is None else log_p * class_weight
    smooth, kept = -weighted.sum(-1) / problem.num_classes, 1 - smoothing
    return kept * loss + smoothing * smooth if kept else smooth  # kept = 0: not 0·∞ for p = 0


def _soft(problem: Rows, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities: −Σ_c w_c q_c ln p_c, where a class with q_c = 0 and p_c = 0 adds 0, its limit."""
    q = problem.target.to(log_p.dtype)
    if problem.terms.label_smoothing:
        q = (1 - problem.terms.label_smoothing) * q + problem.terms.label_smoothing / problem.num_classes
    terms = q * log_p.masked_fill((q == 0) & (log_p == -torch.inf), 0)
    class_weight = class_weight_of(problem)
    if class_weight is not None:
        terms = terms * class_weight
    loss = -terms.sum(-1)
    return loss, torch.ones_like(loss)


def class_weight_of(problem: Rows) -> Tensor | None:
    """The class weight in the dtype of the statistics."""
    weight = problem.terms.weight
    return None if weight is None else weight.to(problem.stats_dtype)


def class_weight_at(class_weight: Tensor, target: Tensor) -> Tensor:
    """w[target] for a target of any shape; `w[target]` itself would read a target without dimensions as a number."""
    return class_weight.index_select(0, target.reshape(-1)).reshape(target.shape)


def _where(counted: Tensor | None, value: Tensor) -> Tensor:
    return value if counted is None else value.masked_fill(~counted, 0)
