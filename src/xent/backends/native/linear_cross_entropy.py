"""Linear + cross-entropy that never holds the logits: values and gradients of a `HeadRows`, no autograd.

The products are torch's (the platform's matrix product); the rows in between are the kernels of cross_entropy.py.
How the work is cut is decided by linear_plan.py; linear_by_rows.py, linear_by_classes.py and linear_by_both.py do it.
"""

from __future__ import annotations

from xent.backends.native import linear_by_both, linear_by_classes, linear_by_rows
from xent.backends.native.linear_plan import Plan, Size, plan
from xent.backends.native.linear_products import widened
from xent.backends.native.linear_rows import CountedRows, counted_rows
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values
from xent.errors import BackendError
from xent.head import HeadRows
from xent.problem import HALF

__all__ = ["Gradients", "Needs", "Upstream", "Values", "forward", "gradients", "loss_and_gradients", "plan_of"]

_WAYS = {"rows": linear_by_rows, "classes": linear_by_classes, "both": linear_by_both}


def plan_of(problem: HeadRows, needs: Needs | None) -> Plan:
    """How the work would be cut; `needs` is None for values alone."""
    return _plan_of(counted_rows(problem), needs)


def forward(problem: HeadRows, *, with_stats: bool, top: int = 0) -> Values:
    """Values of every row, and its `top` most likely classes: one product."""
    rows = counted_rows(problem)
    cut = _plan_of(rows, None, top)
    return _WAYS[cut.by].forward(rows, cut, with_stats, top)


def gradients(problem: HeadRows, values: Values, upstream: Upstream, needs: Needs) -> Gradients:
    """Gradients from the values of an earlier `forward`: the logits are made again."""
    rows = counted_rows(problem)
    cut = _plan_of(rows, needs)
    return _WAYS[cut.by].gradients(rows, cut, values, upstream, needs)


def loss_and_gradients(problem: HeadRows, upstream: Upstream, needs: Needs) -> tuple[Values, Gradients]:
    """Values and gradients at once, where the upstream gradient is known before: no logit is made twice."""
    rows = counted_rows(problem)
    cut = _plan_of(rows, needs)
    return _WAYS[cut.by].loss_and_gradients(rows, cut, upstream, needs)


def _plan_of(rows: CountedRows, needs: Needs | None, top: int = 0) -> Plan:
    """One plan for a problem, whatever gradients are asked for: the last bits of a value depend on the cut."""
    problem, weight = rows.problem, rows.problem.weight
    size = Size(
        rows=len(rows),
        features=weight.shape[1],
        classes=weight.shape[0],
        item=weight.element_size(),
        half=weight.dtype in HALF,
        widened=widened(weight.dtype),
        weight_gradient=True,
        sliced=not problem.extra_shape,
        gathered=rows.kept is not None,
        entries=top + (1 if problem.probabilities is None else problem.probabilities.shape[-1]),
    )
    try:
        return plan(size, problem.max_memory, with_gradient=True)
    except BackendError:
        if needs is not None and needs.weight:
            raise
        return plan(size, problem.max_memory, with_gradient=False)  # there is no gradient to make room for
