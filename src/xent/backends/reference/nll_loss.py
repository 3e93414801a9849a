"""Negative log likelihood of log-probabilities, row by row.

loss   = −r · w[target] · ln p_target        ln p: log-probabilities (*rows, C)
weight = r · w[target]
"""

from __future__ import annotations

import torch
from torch import Tensor

from xent.backends.reference.cross_entropy import class_weight_at, class_weight_of
from xent.problem import Rows, nan_where_out_of_range, safe_target


def rows(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows)."""
    ignored = problem.target == problem.terms.ignore_index
    target, mark = safe_target(problem), nan_where_out_of_range(problem)
    log_p = problem.logits.gather(-1, target.unsqueeze(-1)).squeeze(-1).to(problem.stats_dtype)
    class_weight = class_weight_of(problem)
    weight = torch.ones_like(log_p) if class_weight is None else class_weight_at(class_weight, target)
    if problem.terms.row_weight is not None:
        weight = weight * problem.terms.row_weight.to(weight.dtype)
    weight = weight if mark is None else weight * mark
    return (-weight * log_p).masked_fill(ignored, 0), weight.masked_fill(ignored, 0)
