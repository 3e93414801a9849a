"""What the losses of the Triton column are made of, read from the nodes of `xent.ops.triton`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from xent.inspection._leaves import Whole
from xent.inspection._nodes import Edge
from xent.inspection._whole_problems import rows_of_problem, weights_of_problem

if TYPE_CHECKING:
    from xent.inspection._fold import Fold


def function_sources() -> dict[tuple[Any, int], Any]:
    """Node and number of its output → what folds it."""
    from xent.ops.triton import cross_entropy, linear_cross_entropy

    return {
        (cross_entropy._Rows, 0): _cross_entropy,
        (cross_entropy._Rows, 1): _weight_of_rows,
        (linear_cross_entropy._Total, 0): _linear_total,
        (linear_cross_entropy._Rows, 0): _linear_rows,
    }


def _cross_entropy(fold: Fold, edge: Edge) -> Tensor:
    from xent.ops.triton.cross_entropy import _problem

    saved = edge.saved_tensors()
    problem, lse = _problem(saved[:5], edge.node.terms), saved[5].double() + saved[6].double()
    rows = rows_of_problem(problem, lse)
    return fold.leaf(Whole(rows.loss, "cross_entropy", problem, rows.lse)).reshape(edge.shape)


def _weight_of_rows(fold: Fold, edge: Edge) -> Tensor:
    from xent.ops.triton.cross_entropy import _problem

    return weights_of_problem(_problem(edge.saved_tensors()[:5], edge.node.terms)).reshape(edge.shape)


def _linear_total(fold: Fold, edge: Edge) -> Tensor:
    saved, node = edge.saved_tensors(), edge.node
    _, denominator, largest, logsum = saved[6:10]
    values = _linear(fold, edge, largest.double() + logsum.double(), node.problem.terms.reduction)
    return values.sum() if denominator is None else values.sum() / denominator.detach().double().cpu()


def _linear_rows(fold: Fold, edge: Edge) -> Tensor:
    largest, logsum = edge.saved_tensors()[6:8]
    return _linear(fold, edge, largest.double() + logsum.double(), None).reshape(edge.shape)


def _linear(fold: Fold, edge: Edge, lse: Tensor, reduction: str | None) -> Tensor:
    from xent.ops.triton.linear_cross_entropy import _with_tensors

    problem = _with_tensors(edge.node.problem, edge.saved_tensors()[:6])
    losses = edge.node.losses.detach().double().cpu()
    return fold.leaf(Whole(losses, "linear_cross_entropy", problem, lse.cpu(), reduction))
