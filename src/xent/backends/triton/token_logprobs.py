"""Log-probabilities of target tokens and of the most likely classes, from logits or a chunk of them at a time.

    ln p = (z − m) − ln s

With upstream gradients g_j of the log-probabilities of a row's classes j, Σ g_j ln p_j is the loss of a sparse target
whose probabilities are −g_j: its gradient is the one asked for, and nothing of rows × classes is made on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xent.backends.triton import cross_entropy, linear_cross_entropy
from xent.backends.triton.cross_entropy import Saved, Values
from xent.backends.triton.cross_entropy_gradient import Upstream, gradient
from xent.backends.triton.linear_plan import plan_of
from xent.backends.triton.top_classes import top_classes
from xent.head import HeadRows
from xent.problem import Rows


@dataclass(frozen=True, eq=False)
class Scores:
    """Log-probabilities (N, 1 + k) of the target and the best classes, their indices, −1 where ignored; the values."""

    log_p: Tensor
    index: Tensor
    values: Values


def forward(problem: Rows | HeadRows, with_entropy: bool, top: int) -> Scores:
    """Scores of every row."""
    if isinstance(problem, Rows):
        values = cross_entropy.forward(problem, with_entropy)
        best, z = top_classes(problem, top)
    else:
        values, best, z = _of_chunks(problem, with_entropy, top)
    target = problem.target.reshape(-1, 1)
    ignored = target == problem.terms.ignore_index
    marked = torch.where(target < 0, problem.num_classes, target)  # −1 is for ignored rows
    of_top = (z - values.largest.unsqueeze(1)) - values.logsum.unsqueeze(1)
    log_p = torch.cat([-values.loss.unsqueeze(1), of_top.masked_fill(ignored, 0)], 1)
    return Scores(log_p, torch.cat([marked, best], 1).masked_fill(ignored, -1), values)


def gradients(
    problem: Rows | HeadRows, scores: tuple[Tensor, Saved], of_log_p: Tensor | None, of_entropy: Tensor | None,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Gradients of the logits; or of hidden states, weight and bias."""
    index, saved = scores
    if of_log_p is None:
        of_log_p = torch.zeros(index.shape, dtype=saved.largest.dtype, device=index.device)
    shape = (*problem.target.shape, index.shape[1])
    probabilities = (-of_log_p).masked_fill(index < 0, 0)
    entries = replace(
        problem,
        target=index.view(shape),
        probabilities=probabilities.view(shape),
        terms=replace(problem.terms, ignore_index=-1),  # the caller's may be one of the best classes
    )
    saved = replace(saved, mass=probabilities.sum(1))
    upstream = Upstream(torch.ones_like(saved.mass), None, of_entropy)
    if isinstance(entries, Rows):
        return gradient(entries, saved, upstream), None, None
    made = linear_cross_entropy.gradients(entries, saved, upstream, linear_cross_entropy.Needs(*needs))
    hidden = None if made.hidden is None else made.hidden.view(entries.hidden.shape)
    return hidden, made.weight, made.bias


def _of_chunks(problem: HeadRows, with_entropy: bool, top: int) -> tuple[Values, Tensor, Tensor]:
    values = linear_cross_entropy.room(problem, with_entropy)
    best, z = [], []
    for chunk in linear_cross_entropy.chunks(problem, plan_of(problem)):
        cross_entropy.write_values(chunk.rows, values.at(chunk.losses), with_entropy)
        for parts, part in zip((best, z), top_classes(chunk.rows, top), strict=True):
            parts.append(part)
    if not best:
        nothing = torch.empty(0, top, dtype=torch.int64, device=problem.hidden.device)
        return values, nothing, nothing.to(values.loss.dtype)
    return values, torch.cat(best), torch.cat(z)
