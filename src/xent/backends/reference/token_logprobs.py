"""Log-probabilities of target tokens and of the most likely classes.

ln p = z − logsumexp(z),  z = softcap · tanh(logit_scale · x / softcap)            x: logits (*rows, V)
"""

from __future__ import annotations

import torch
from torch import Tensor

from xent import target_checks
from xent.backends.reference import linear_cross_entropy
from xent.backends.reference.cross_entropy import entropy, scaled_logits
from xent.head import HeadRows
from xent.problem import Rows, counted_mask
from xent.row_stats import TokenLogprobs


def rows(problem: Rows | HeadRows, with_entropy: bool, top: int) -> TokenLogprobs:
    """Ln p(target) of every row, on request the entropy and the `top` most likely classes."""
    problem = _with_logits(problem)
    z = scaled_logits(problem.logits, problem.terms, problem.stats_dtype)
    ignored = problem.target == problem.terms.ignore_index
    index = marked_index(problem).unsqueeze(-1)
    best = z.sort(dim=-1, descending=True, stable=True).indices[..., :top].masked_fill(ignored.unsqueeze(-1), -1)
    log_p, row_entropy = at(problem, index)
    return TokenLogprobs(
        logprob=log_p.squeeze(-1),
        entropy=row_entropy if with_entropy else None,
        top_indices=best if top else None,
        top_logprobs=at(problem, best)[0] if top else None,
    )


def at(problem: Rows | HeadRows, index: Tensor) -> tuple[Tensor, Tensor]:
    """Ln p of given classes (*rows, m), 0 where the index is −1, and the entropy of every row.

    On a GPU, where nobody has looked, NaN where there is no such class.
    """
    problem = _with_logits(problem)
    log_p = scaled_logits(problem.logits, problem.terms, problem.stats_dtype).log_softmax(-1)
    counted, row_entropy = counted_mask(problem), entropy(log_p)
    if counted is not None:
        row_entropy = row_entropy.masked_fill(~counted, 0)
    if target_checks.readable_at_once(index):
        return log_p.gather(-1, index.clamp(min=0)).masked_fill(index < 0, 0), row_entropy
    classes = problem.num_classes
    mark = torch.ones_like(index, dtype=log_p.dtype).masked_fill(index >= classes, torch.nan)
    return (log_p.gather(-1, index.clamp(0, classes - 1)) * mark).masked_fill(index < 0, 0), row_entropy


def marked_index(problem: Rows | HeadRows) -> Tensor:
    """The targets, −1 where ignored and at least C where out of range: nothing else may look like an ignored one."""
    target = problem.target
    return torch.where(target < 0, problem.num_classes, target).masked_fill(target == problem.terms.ignore_index, -1)


def _with_logits(problem: Rows | HeadRows) -> Rows:
    return problem if isinstance(problem, Rows) else linear_cross_entropy.with_logits(problem)
