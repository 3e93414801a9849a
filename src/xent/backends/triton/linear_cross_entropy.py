"""Linear + cross-entropy in chunks of rows that this file owns: logits, losses, gradient in place, two products.

    logits = hidden · Wᵀ + b        torch.mm into the chunk (cuBLAS on a GPU)
    G      = d loss / d logits      the row kernels, over the chunk
    d hidden = G · W,   d W += Gᵀ · hidden,   d b += Σ G

The gradient of the weight is added up in its own dtype, each product and its addition in float32 and rounded once: one
rounding for each chunk. No row is left out for being ignored: finding out which ones are would make the host wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.backends.triton import cross_entropy as values_of
from xent.backends.triton import linear_recompute
from xent.backends.triton.cross_entropy import Saved, Values
from xent.backends.triton.cross_entropy_gradient import Upstream, write_gradient
from xent.backends.triton.linear_plan import Plan, plan_of
from xent.head import HeadRows, is_flat
from xent.problem import Rows, stats_dtype


@dataclass(frozen=True)
class Needs:
    """Which gradients are asked for; the others cost nothing."""

    hidden: bool
    weight: bool
    bias: bool


@dataclass(eq=False)
class Gradients:
    """Gradients of hidden (N, D), weight (C·K, D) and bias (C·K,), in the inputs' dtype; None where not asked for."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows with their logits: hidden states start … stop − 1, and where their losses stand."""

    start: int
    stop: int
    losses: slice
    hidden: Tensor
    logits: Tensor
    rows: Rows


def forward(problem: HeadRows, with_stats: bool) -> Values:
    """Values of every row, without row weights: one product."""
    values, plan = room(problem, with_stats), plan_of(problem)
    if not plan.rows:
        linear_recompute.write_values(*_whole(problem), values, with_stats)
        return values
    for chunk in chunks(problem, plan):
        values_of.write_values(chunk.rows, values.at(chunk.losses), with_stats)
    return values


def gradients(problem: HeadRows, saved: Saved, upstream: Upstream, needs: Needs) -> Gradients:
    """Gradients from what an earlier pass saved: the logits are made again."""
    sums, plan = _Sums(problem, needs), plan_of(problem)
    if not plan.rows:
        return sums.recomputed(problem, saved, upstream)
    for chunk in chunks(problem, plan):
        part = Saved(*(None if value is None else value[chunk.losses] for value in vars(saved).values()))
        of_chunk = Upstream(*(None if g is None else g[chunk.losses] for g in vars(upstream).values()))
        sums.add(chunk, part, of_chunk)
    return sums.finished()


def loss_and_gradients(problem: HeadRows, per_row: Tensor, needs: Needs) -> tuple[Values, Gradients]:
    """Values and gradients at once, where the upstream gradient (N·K,) is known before: no logit is made twice."""
    values, sums, plan = room(problem, False), _Sums(problem, needs), plan_of(problem)
    if not plan.rows:
        linear_recompute.write_values(*_whole(problem), values, False)
        return values, sums.recomputed(problem, values.saved, Upstream(per_row))
    for chunk in chunks(problem, plan):
        part = values.at(chunk.losses)
        values_of.write_values(chunk.rows, part, False)
        sums.add(chunk, part.saved, Upstream(per_row[chunk.losses]))
    return values, sums.finished()


def chunks(problem: HeadRows, plan: Plan) -> Iterator[Chunk]:
    """The chunks of a problem; the logits of all of them share one buffer. A plan without logits makes them row by row,
    for what only the logits themselves can give: the best classes, the gradients of targets and class weights.
    """
    hidden, weight, bias = problem.hidden.detach(), problem.weight.detach(), problem.bias
    per_hidden, count = problem.extra_shape_product, hidden.shape[:-1].numel()
    step = max(plan.rows, 1)
    buffer = torch.empty(min(step, count), weight.shape[0], dtype=hidden.dtype, device=hidden.device)
    for start in range(0, count, step):
        stop = min(start + step, count)
        part, logits = _between(problem, hidden, start, stop), buffer[: stop - start]
        if bias is None:
            torch.mm(part, weight.t(), out=logits)
        else:
            torch.addmm(bias.detach(), part, weight.t(), out=logits)
        rows = Rows(_shaped(problem, logits), _between(problem, problem.target, start, stop), problem.terms,
                    _probabilities_between(problem, start, stop))  # fmt: skip
        yield Chunk(start, stop, slice(start * per_hidden, stop * per_hidden), part, logits, rows)


def _whole(problem: HeadRows) -> tuple[Rows, Tensor, tuple[Tensor, Tensor | None]]:
    """The rows without their logits, the hidden states and the layer, for kernels that make the logits themselves."""
    hidden, weight = (_adjacent(x.detach()) for x in (_all_of(problem, problem.hidden), problem.weight))
    nothing = torch.empty(len(hidden), weight.shape[0], dtype=hidden.dtype, device="meta")
    probabilities = None if problem.probabilities is None else _all_of(problem, problem.probabilities.detach())
    rows = Rows(nothing, _all_of(problem, problem.target), problem.terms, probabilities)
    return rows, hidden, (weight, None if problem.bias is None else problem.bias.detach().contiguous())


class _Sums:
    """The gradients, chunk by chunk."""

    def __init__(self, problem: HeadRows, needs: Needs) -> None:
        weight, hidden = problem.weight.detach(), problem.hidden
        self.weight = weight
        shape = hidden.shape[:-1].numel(), hidden.shape[-1]
        self.of_hidden = torch.empty(shape, dtype=hidden.dtype, device=hidden.device) if needs.hidden else None
        self.of_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if needs.weight else None
        if self.of_weight is not None and shape[0] == 0:
            self.of_weight.zero_()
        wide = stats_dtype(weight.dtype)
        self.of_bias = torch.zeros(weight.shape[0], dtype=wide, device=weight.device) if needs.bias else None

    def add(self, chunk: Chunk, saved: Saved, upstream: Upstream) -> None:
        write_gradient(chunk.rows, saved, upstream, chunk.rows.logits)
        if self.of_hidden is not None:
            torch.mm(chunk.logits, self.weight, out=self.of_hidden[chunk.start : chunk.stop])
        if self.of_weight is not None and chunk.start == 0:
            torch.mm(chunk.logits.t(), chunk.hidden, out=self.of_weight)
        elif self.of_weight is not None:
            self.of_weight.addmm_(chunk.logits.t(), chunk.hidden)
        if self.of_bias is not None:
            self.of_bias += chunk.logits.sum(0, dtype=self.of_bias.dtype)

    def recomputed(self, problem: HeadRows, saved: Saved, upstream: Upstream) -> Gradients:
        """All of them at once, from no logits."""
        room = self.of_hidden, self.of_weight, self.of_bias
        linear_recompute.write_gradients(*_whole(problem), saved, upstream, room, problem.gradient_filter)
        return self.finished()

    def finished(self) -> Gradients:
        bias = None if self.of_bias is None else self.of_bias.to(self.weight.dtype)
        return Gradients(self.of_hidden, self.of_weight, bias)


def room(problem: HeadRows, with_stats: bool) -> Values:
    """Room for the values of all rows."""
    count = problem.hidden.shape[:-1].numel() * problem.extra_shape_product
    return values_of.empty_values(count, stats_dtype(problem.hidden.dtype), problem.hidden.device, with_stats)


def _shaped(problem: HeadRows, logits: Tensor) -> Tensor:
    """Logits (n, C·K) as a view (n, *extra, C)."""
    if not problem.extra_shape:
        return logits
    return logits.unflatten(1, (problem.num_classes, *problem.extra_shape)).movedim(1, -1)


def _probabilities_between(problem: HeadRows, start: int, stop: int) -> Tensor | None:
    probabilities = problem.probabilities
    return None if probabilities is None else _between(problem, probabilities.detach(), start, stop)


def _adjacent(matrix: Tensor) -> Tensor:
    """The matrix as a kernel reads it, copied only where its features lie apart."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _all_of(problem: HeadRows, tensor: Tensor) -> Tensor:
    """All hidden states, or their targets, with one leading dimension."""
    lead = problem.hidden.ndim - 1
    return tensor.reshape(tensor.shape[:lead].numel(), *tensor.shape[lead:])


def _between(problem: HeadRows, tensor: Tensor, start: int, stop: int) -> Tensor:
    """The hidden states start … stop − 1, or their targets: a view where the leading dimensions are one run, else a
    copy, gathered by numbers of 8 bytes that the plan counts.
    """
    lead = problem.hidden.ndim - 1
    if lead == 0:
        return tensor.unsqueeze(0)[start:stop]
    if is_flat(tensor, lead):
        return tensor.flatten(0, lead - 1)[start:stop]
    return tensor[torch.unravel_index(torch.arange(start, stop, device=tensor.device), tensor.shape[:lead])]
