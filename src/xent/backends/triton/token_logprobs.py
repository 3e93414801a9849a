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
        best, of_best = _best(problem, values, top)
    else:
        values, best, of_best = _of_chunks(problem, with_entropy, top)
    target = problem.target.reshape(-1, 1)
    ignored = target == problem.terms.ignore_index
    marked = torch.where(target < 0, problem.num_classes, target)  # −1 is for ignored rows
    log_p = torch.cat([-values.loss.unsqueeze(1), of_best.masked_fill(ignored, 0)], 1)
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


def _best(rows: Rows, values: Values, top: int) -> tuple[Tensor, Tensor]:
    """Indices and log-probabilities of the best classes, each (N, top)."""
    index, z = top_classes(rows, top)
    return index, (z - values.largest.unsqueeze(1)) - values.logsum.unsqueeze(1)


def _of_chunks(problem: HeadRows, with_entropy: bool, top: int) -> tuple[Values, Tensor, Tensor]:
    """Where no logits are held, their values come from the kernels that the gradients come from; and the best classes
    with log-probabilities of their own, a row of logits at a time.
    """
    plan = plan_of(problem)
    held = plan.rows > 0
    values = (linear_cross_entropy.room if held else linear_cross_entropy.forward)(problem, with_entropy)
    best: list[tuple[Tensor, Tensor]] = []
    for chunk in linear_cross_entropy.chunks(problem, plan) if held or top else ():
        if held:
            part = values.at(chunk.losses)
            cross_entropy.write_values(chunk.rows, part, with_entropy)
        else:
            part = cross_entropy.forward(chunk.rows, False)
        best.append(_best(chunk.rows, part, top))
    if not best:
        nothing = values.loss.new_empty(len(values.loss), top)
        return values, nothing.long(), nothing
    index, log_p = zip(*best, strict=True)
    return values, torch.cat(index), torch.cat(log_p)
