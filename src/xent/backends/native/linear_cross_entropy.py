"""Linear + cross-entropy that never holds the logits: values and gradients of a `HeadRows`, no autograd.

The products are torch's (the platform's matrix product); the rows in between are the kernels of cross_entropy.py.
How the work is cut is decided by linear_plan.py; linear_by_rows.py, linear_by_classes.py and linear_by_both.py do it.
"""

from __future__ import annotations

from dataclasses import replace

from xent.backends.native import linear_by_both, linear_by_classes, linear_by_rows
from xent.backends.native.linear_plan import Plan, Size, plan
from xent.backends.native.linear_products import SUM_PIECE, multiplies_as_it_is, widened
from xent.backends.native.linear_rows import CountedRows, counted_rows
from xent.backends.native.linear_values import Gradients, Needs, Upstream, Values
from xent.errors import BackendError
from xent.head import HeadRows, is_flat
from xent.problem import HALF, stats_dtype

__all__ = ["Gradients", "Needs", "Upstream", "Values", "forward", "gradients", "loss_and_gradients", "plan_of"]

_WAYS = {"rows": linear_by_rows, "classes": linear_by_classes, "both": linear_by_both}


def plan_of(problem: HeadRows, needs: Needs | None, top: int = 0) -> Plan:
    """How the work would be cut; `needs` is None for values alone."""
    return _plan_of(counted_rows(problem), needs, top)


def forward(problem: HeadRows, *, with_stats: bool, top: int = 0, needs: Needs | None = None) -> Values:
    """Values of every row, and its `top` most likely classes: one product.

    What `needs` says of gradients to come must fit too.
    """
    rows = counted_rows(problem)
    cut = _plan_of(rows, needs, top)
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
    """One plan for a problem, whatever gradients are asked for and when: the last bits of a value depend on it."""
    size, bound = _size(rows, top), rows.problem.max_memory
    try:
        return plan(size, bound, with_gradient=True)
    except BackendError:
        if needs is not None and needs.weight:
            raise
        # There is no gradient of the weight, or none at all, to make room for.
        return plan(replace(size, weight_gradient=False), bound, with_gradient=needs is not None and needs.hidden)


def _size(rows: CountedRows, top: int) -> Size:
    problem, weight, hidden = rows.problem, rows.problem.weight, rows.problem.hidden
    smoothed = problem.is_dense and problem.terms.label_smoothing > 0
    gathers_target = problem.is_dense and not is_flat(problem.target, rows.lead)
    return Size(
        rows=len(rows),
        features=weight.shape[1],
        classes=weight.shape[0],
        item=weight.element_size(),
        half=weight.dtype in HALF,
        widened=widened(weight.dtype),
        weight_gradient=problem.trains_weight,
        sliced=not problem.extra_shape,
        gathered=rows.is_gathered or not multiplies_as_it_is(hidden),
        entries=top + (1 if problem.probabilities is None else problem.probabilities.shape[-1]),
        ignored=rows.num_hidden - len(rows),
        per_hidden=rows.per_hidden,
        target_item=problem.target.element_size() if gathers_target else 0,
        smoothed_item=stats_dtype(weight.dtype).itemsize if smoothed else 0,
        top=top,
        fixed=_fixed_bytes(problem),
    )


def _fixed_bytes(problem: HeadRows) -> int:
    """Sums for the bias, the class weight in the dtypes that read it, and a weight in an order that products take."""
    weight, classes = problem.weight, problem.weight.shape[0]
    found = 0 if multiplies_as_it_is(weight) else weight.numel() * weight.element_size()
    if problem.bias is not None:
        found += classes * 16 + (4 * max(SUM_PIECE, classes) if weight.dtype in HALF else 0)
    return found + (classes * 24 if problem.terms.weight is not None else 0)
