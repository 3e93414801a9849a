"""What the losses and tables of the Triton column are made of, read from the nodes of `xent.ops.triton`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.inspection._expressions import Elementwise, Expression, Known
from xent.inspection._leaves import ENTROPY, LOGSUMEXP, LogSumExps, Other, Whole
from xent.inspection._nodes import Edge, Unreadable
from xent.inspection._whole_problems import rows_of_problem, weights_of_problem

if TYPE_CHECKING:
    from xent.inspection._fold import Fold


def function_sources() -> dict[tuple[Any, int], Any]:
    """Node and number of its output → what folds it."""
    from xent.ops.triton import cross_entropy, linear_cross_entropy, logsumexp

    return {
        (logsumexp._LogSumExp, 0): _whole_log_sum_exp,
        (cross_entropy._Rows, 0): _cross_entropy,
        (cross_entropy._Rows, 1): _weight_of_rows,
        (cross_entropy._Rows, 2): _log_sum_exp,
        (cross_entropy._Rows, 3): _entropy,
        (linear_cross_entropy._Total, 0): _linear_total,
        (linear_cross_entropy._Rows, 0): _linear_rows,
        (linear_cross_entropy._Rows, 2): _linear_lse,
        (linear_cross_entropy._Rows, 3): _entropy,
    }


def table_of(edge: Edge) -> Expression | None:
    """Log-probabilities or log-sum-exps as what they were made from; None if the edge is neither.

    The log-softmax keeps its input and m and ln s of every row: each log-probability is made again where it is read.
    """
    from xent.ops.triton import log_softmax, logsumexp

    if edge.function is log_softmax._LogSoftmax and edge.output == 0:
        input, largest, logsum = edge.saved_tensors()
        rows = (*input.shape[:-1], 1)
        operands = (Known(input), Known(largest.view(rows)), Known(logsum.view(rows)))
        subtract = _in_float32 if largest.dtype == torch.float32 else _subtracted
        return Elementwise("LogSoftmax", subtract, operands, behind=edge.operands[0])
    if edge.function is logsumexp._LogSumExp and edge.output == 0:
        return Known(_exact_lse(edge).reshape(edge.shape))
    return None


def _subtracted(x: Tensor, largest: Tensor, logsum: Tensor) -> Tensor:
    return (x - largest) - logsum


def _in_float32(x: Tensor, largest: Tensor, logsum: Tensor) -> Tensor:
    """With the two roundings of the kernel."""
    return _subtracted(x.float(), largest.float(), logsum.float()).double()


def _exact_lse(edge: Edge) -> Tensor:
    """Of every row; an infinite one, whose m the kernel saved as NaN, once more."""
    input, largest, logsum = edge.saved_tensors()
    lse, again = largest.double() + logsum.double(), largest.isnan()
    if bool(again.any()):
        lse[again] = input.detach().reshape(len(lse), -1)[again].double().logsumexp(-1)
    return lse.cpu()


def _whole_log_sum_exp(fold: Fold, edge: Edge) -> Tensor:
    from xent.inspection._row_sources import read_or

    table = read_or(edge.operands[0], edge.saved_tensors()[0])
    return fold.leaf(LogSumExps(_exact_lse(edge), table, len(table.shape) - 1)).reshape(edge.shape)


def _log_sum_exp(fold: Fold, edge: Edge) -> Tensor:
    """That of the statistics of a cross-entropy."""
    from xent.inspection._row_sources import read_or

    saved = edge.saved_tensors()
    if edge.node.terms.softcap is not None or edge.node.terms.logit_scale != 1:
        raise Unreadable(edge, "the log-sum-exp of scaled or capped logits")
    logits, lse = read_or(edge.operands[0], saved[0]), saved[5].double() + saved[6].double()
    return fold.leaf(LogSumExps(lse.reshape(-1).cpu(), logits, len(logits.shape) - 1)).reshape(edge.shape)


def _entropy(fold: Fold, edge: Edge) -> Tensor:
    return fold.leaf(Other(edge.saved_tensors()[-1].reshape(edge.shape), edge, ENTROPY))


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


def _linear_lse(fold: Fold, edge: Edge) -> Tensor:
    largest, logsum = edge.saved_tensors()[6:8]
    return fold.leaf(Other((largest.double() + logsum.double()).reshape(edge.shape), edge, LOGSUMEXP))


def _linear(fold: Fold, edge: Edge, lse: Tensor, reduction: str | None) -> Tensor:
    from xent.ops.triton.linear_cross_entropy import _with_tensors

    problem = _with_tensors(edge.node.problem, edge.saved_tensors()[:6])
    losses = edge.node.losses.detach().double().cpu()
    return fold.leaf(Whole(losses, "linear_cross_entropy", problem, lse.cpu(), reduction))
