"""Cross-entropy of a linear layer's output: logits = hidden · Wᵀ + b, then cross-entropy row by row."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from xent.backends.reference import cross_entropy
from xent.errors import BackendError
from xent.head import HeadRows
from xent.problem import Rows
from xent.reduction import reduce_rows
from xent.row_stats import RowStats


def total(problem: HeadRows) -> Tensor:
    """The sum or mean over the rows."""
    return reduce_rows(*rows(problem), problem.terms)


def rows(problem: HeadRows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows, *extra)."""
    return cross_entropy.rows(with_logits(problem))


def rows_with_stats(problem: HeadRows) -> RowStats:
    """Loss, weight and statistics of every row."""
    return cross_entropy.rows_with_stats(with_logits(problem))


def with_logits(problem: HeadRows) -> Rows:
    """The same problem with its logits made, held whole."""
    _check_memory(problem)
    logits = linear(problem.hidden, problem.weight, problem.bias)
    return Rows(problem.logit_rows(logits), problem.target, problem.terms, problem.probabilities)


def _check_memory(problem: HeadRows) -> None:
    hidden, bound = problem.hidden, problem.max_memory
    need = hidden.shape[:-1].numel() * problem.weight.shape[0] * hidden.element_size()
    if bound is not None and need > bound:
        raise BackendError(
            f"max_memory={bound} bytes",
            f"the reference backend holds the logits whole, {need} bytes",
            "raise max_memory, or pass fewer rows at a time",
        )
