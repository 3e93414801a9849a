"""Linear + cross-entropy, a few rows at a time: logits, losses, gradient in place, two products.

Buffers are not advised to be in huge pages. A call takes seconds, long enough for a virtual machine to give free memory
back to its host, and whole huge pages are what it gives back: with the advice, 2.4 GB of gradients took 11 s of system
time, without it 2 s. Where memory stays, 4-KiB pages cost a percent of the products.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xent.backends.native import cross_entropy as kernel
from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_products import add_column_sums
from xent.backends.native.linear_rows import CountedRows
from xent.backends.native.linear_term_gradients import TermGradients, with_terms
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values, accumulator_dtype, empty_values
from xent.backends.native.target_entries import scaled
from xent.backends.native.top_classes import top_classes
from xent.problem import Rows


def forward(rows: CountedRows, plan: Plan, with_stats: bool, top: int = 0) -> Values:
    """Values of every row, and its `top` most likely classes."""
    values = empty_values(rows, with_stats=with_stats, top=top)
    for start, stop, _, chunk in _chunks(rows, plan):
        _write_values(rows, start, stop, chunk, values)
    return values


def gradients(rows: CountedRows, plan: Plan, values: Values, upstream: Upstream, needs: Needs) -> Gradients:
    """Gradients from the values of an earlier pass."""
    sums, terms = _Sums(rows, plan, needs), TermGradients(rows, values, upstream, needs)
    for start, stop, hidden, chunk in _chunks(rows, plan):
        terms.add(start, stop, 0, chunk.logits)
        if not needs.logits:
            continue
        where = rows.losses_between(start, stop)
        named = {name: value[where] for name, value in values.named().items()}
        sums.add(start, stop, hidden, _in_place(chunk, named, upstream.between(where)))
    return with_terms(sums.finished(), terms)


def loss_and_gradients(rows: CountedRows, plan: Plan, upstream: Upstream, needs: Needs) -> tuple[Values, Gradients]:
    """Values and gradients in one pass over the chunks."""
    values, sums = empty_values(rows, with_stats=False), _Sums(rows, plan, needs)
    for start, stop, hidden, chunk in _chunks(rows, plan):
        named = _write_values(rows, start, stop, chunk, values)
        where = rows.losses_between(start, stop)
        sums.add(start, stop, hidden, _in_place(chunk, named, upstream.between(where)))
    return values, sums.finished()


def _chunks(rows: CountedRows, plan: Plan) -> Iterator[tuple[int, int, Tensor, Rows]]:
    """Hidden states and problem of each chunk; the logits of all chunks share one buffer."""
    weight, bias = rows.problem.weight.detach(), rows.problem.bias
    width = weight.shape[0]
    buffer = torch.empty((min(plan.step, len(rows)), width), dtype=weight.dtype)
    for start in range(0, len(rows), plan.step):
        stop = min(start + plan.step, len(rows))
        hidden, logits = rows.hidden_between(start, stop), buffer[: stop - start]
        plan.products.write(logits, hidden, weight.t(), None if bias is None else bias.detach())
        yield start, stop, hidden, rows.problem_between(start, stop, logits)


def _write_values(rows: CountedRows, start: int, stop: int, chunk: Rows, values: Values) -> dict[str, Tensor]:
    named = kernel.forward(chunk, with_stats=values.entropy is not None)
    where = rows.losses_between(start, stop)
    for name, whole in values.named().items():
        whole[where] = named[name]
    if values.top_index is not None and values.top_logit is not None:
        best = top_classes(chunk.logits, values.top_index.shape[1], chunk.terms)
        x = chunk.logits.gather(-1, best.view(*chunk.logits.shape[:-1], -1)).view(best.shape)
        values.top_index[where] = best
        values.top_logit[where] = scaled(x.double(), chunk.terms)[0]
    return named


def _in_place(chunk: Rows, named: dict[str, Tensor], upstream: Upstream) -> Tensor:
    """The gradient of the chunk's logits, written over them; (n, C·K) as the products take it."""
    saved = kernel.Saved(named["exact_lse"], named.get("entropy"), named.get("mass"), named["lse_low"])
    kernel.write_gradient(chunk, saved, chunk.logits, upstream.loss, upstream.lse, upstream.entropy)
    return chunk.logits.movedim(-1, 1).flatten(1)


class _Sums:
    """The gradients, summed over chunks; half inputs in float32 where there is more than one chunk."""

    def __init__(self, rows: CountedRows, plan: Plan, needs: Needs) -> None:
        self._rows, self._products = rows, plan.products
        self._weight = rows.problem.weight.detach()
        self._one_chunk = len(rows) <= plan.step
        dtype, exact = self._weight.dtype, accumulator_dtype(self._weight.dtype)
        self._hidden_gradient = (
            torch.empty(rows.num_hidden, self._weight.shape[1], dtype=dtype) if needs.hidden else None
        )
        if self._hidden_gradient is not None and rows.kept is not None:
            self._hidden_gradient.zero_()
        summed = dtype if self._one_chunk else exact
        self._weight_gradient = torch.empty(self._weight.shape, dtype=summed) if needs.weight else None
        self._bias_gradient = torch.zeros(self._weight.shape[0], dtype=exact) if needs.bias else None
        if len(rows) == 0 and self._weight_gradient is not None:
            self._weight_gradient.zero_()

    def add(self, start: int, stop: int, hidden: Tensor, gradient: Tensor) -> None:
        """Add what a chunk with this gradient of its logits (n, C·K) gives."""
        if self._hidden_gradient is not None:
            if self._rows.kept is None:
                self._products.write(self._hidden_gradient[start:stop], gradient, self._weight)
            else:
                part = self._weight.new_empty(len(gradient), self._weight.shape[1])
                self._products.write(part, gradient, self._weight)
                self._hidden_gradient[self._rows.kept[start:stop]] = part
        if self._weight_gradient is not None:
            self._add_to_weight(start, hidden, gradient)
        if self._bias_gradient is not None:
            add_column_sums(self._bias_gradient, gradient)

    def _add_to_weight(self, start: int, hidden: Tensor, gradient: Tensor) -> None:
        total = self._weight_gradient
        if total is not None and start == 0:
            self._products.write(total, gradient.t(), hidden)
        elif total is not None:
            self._products.add(total, gradient.t(), hidden)

    def finished(self) -> Gradients:
        """All of them, in the dtype of the inputs."""
        dtype = self._weight.dtype
        weight = None if self._weight_gradient is None else self._weight_gradient.to(dtype)
        bias = None if self._bias_gradient is None else self._bias_gradient.to(dtype)
        return Gradients(self._hidden_gradient, weight, bias)
