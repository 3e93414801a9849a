"""Linear + cross-entropy in two sweeps, for half inputs and little memory: by rows, then by classes.

The first sweep makes values and the gradient of the hidden states, the second that of weight and bias. Each product
finishes its part of a gradient at once, so that no float32 sum of either gradient is held; the logits are made twice.
"""

from __future__ import annotations

from dataclasses import replace

from xent.backends.native import linear_by_classes, linear_by_rows
from xent.backends.native.linear_plan import Plan
from xent.backends.native.linear_rows import CountedRows
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values


def forward(rows: CountedRows, plan: Plan, with_stats: bool, top: int = 0) -> Values:
    """Values of every row, and its `top` most likely classes."""
    return linear_by_rows.forward(rows, plan, with_stats, top)


def gradients(rows: CountedRows, plan: Plan, values: Values, upstream: Upstream, needs: Needs) -> Gradients:
    """Gradients from the values of an earlier pass."""
    first = replace(needs, weight=False, bias=False)
    made = Gradients(None, None, None)
    if first.logits or first.terms:
        made = linear_by_rows.gradients(rows, plan, values, upstream, first)
    return _with_second_sweep(made, rows, plan, values, upstream, needs)


def loss_and_gradients(rows: CountedRows, plan: Plan, upstream: Upstream, needs: Needs) -> tuple[Values, Gradients]:
    """Values and the gradient of the hidden states in one sweep, those of weight and bias in another."""
    if needs.hidden:
        first = replace(needs, weight=False, bias=False)
        values, made = linear_by_rows.loss_and_gradients(rows, plan, upstream, first)
    else:
        values, made = linear_by_rows.forward(rows, plan, with_stats=False), Gradients(None, None, None)
    return values, _with_second_sweep(made, rows, plan, values, upstream, needs)


def _with_second_sweep(
    made: Gradients, rows: CountedRows, plan: Plan, values: Values, upstream: Upstream, needs: Needs
) -> Gradients:
    second = Needs(hidden=False, weight=needs.weight, bias=needs.bias)
    if not second.logits:
        return made
    found = linear_by_classes.gradients(rows, replace(plan, step=plan.tile), values, upstream, second)
    return replace(made, weight=found.weight, bias=found.bias)
