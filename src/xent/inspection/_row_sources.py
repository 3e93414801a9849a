"""The nodes that hold whole rows of a loss: torch's nll_loss and binary losses, and xent's own functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.inspection._expressions import Expression, Known, every_place
from xent.inspection._leaves import ENTROPY, LOGSUMEXP, LogSumExps, Other, Picks, Whole
from xent.inspection._linear_parts import Part, class_dim_of, parts_at
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed
from xent.inspection._tables import expression_of, operand

if TYPE_CHECKING:
    from xent.inspection._fold import Fold

_REDUCTION = ("none", "mean", "sum")  # by torch's numbers
Source = Callable[["Fold", Edge], Tensor]


@dataclass(frozen=True, eq=False)
class Elements:
    """A binary loss: logits or probabilities and targets of one shape, weights that broadcast to it."""

    input: Tensor
    target: Tensor
    weight: Tensor | None
    pos_weight: Tensor | None


def source_of(edge: Edge) -> Source | None:
    """How the rows at `edge` are read; None if it holds none."""
    if edge.function is not None:
        return _function_sources().get((edge.function, edge.output))
    return ROW_SOURCES.get(kind_of(edge))


def reduced(rows: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """Torch's three reductions."""
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    return rows.sum() / (rows.numel() if weight is None else weight.sum())


def _nll(fold: Fold, edge: Edge) -> Tensor:
    table, target = operand(edge, 0, "self"), edge.saved("target").cpu()
    class_weight, ignore_index = edge.saved("weight"), signed(edge.saved("ignore_index"))
    reduction, class_dim = _REDUCTION[signed(edge.saved("reduction"))], min(1, len(table.shape) - 1)
    target = target.reshape(()) if len(table.shape) == 1 else target
    counted = target != ignore_index
    safe = target.masked_fill(~counted, 0)
    places = list(every_place(tuple(target.shape)))
    places.insert(class_dim, safe)
    weight = torch.ones(target.shape, dtype=torch.float64)
    if class_weight is not None:
        weight = class_weight.detach().double().cpu()[safe]
    total = torch.zeros(target.shape, dtype=torch.float64)
    for part in parts_at(table, tuple(places)):
        known = class_dim_of(part.base)
        leaf = Picks(
            part.values().broadcast_to(target.shape),
            part.base,
            class_dim if known is None else known,
            part.places,
            counted=counted,
            weight=weight,
            class_weight=class_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            name="nll_loss",
        )
        total = total + part.factor * fold.leaf(leaf)
    rows = torch.where(counted, -weight * total, 0.0)
    result = reduced(rows, torch.where(counted, weight, 0.0), reduction)
    return result.reshape(edge.shape)


def _binary(kind: str) -> Source:
    def read(fold: Fold, edge: Edge) -> Tensor:
        input, target = _saved_or_read(edge, 0, "self"), _saved_or_read(edge, 1, "target")
        fold.went_through(input.dtype)  # bfloat16 logits and float32 targets make a float32 loss of rounded softpluses
        pos_weight = edge.saved("pos_weight") if kind.endswith("logits") else None
        problem = Elements(input, target, edge.saved("weight"), pos_weight)
        reduction = _REDUCTION[signed(edge.saved("reduction"))]
        values = fold.leaf(Whole(binary_rows(kind, problem), kind, problem, reduction=reduction))
        return reduced(values, None, reduction)

    return read


def _saved_or_read(edge: Edge, place: int, name: str) -> Tensor:
    value = edge.saved(name)
    if value is None:
        raise Unreadable(edge, f"it kept no {name}")
    return value.detach()


def binary_rows(kind: str, problem: Elements) -> Tensor:
    """The loss of every element, in float64, as torch defines it."""
    x, t = problem.input.detach().double().cpu(), problem.target.detach().double().cpu()
    weight = 1.0 if problem.weight is None else problem.weight.detach().double().cpu()
    if kind == "binary_cross_entropy":
        return -weight * (t * x.log().clamp(min=-100) + (1 - t) * (-x).log1p().clamp(min=-100))
    positive = 1.0 if problem.pos_weight is None else problem.pos_weight.detach().double().cpu()
    log_sigmoid = torch.nn.functional.logsigmoid
    return -weight * (positive * t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x))


def _function_sources() -> dict[tuple[Any, int], Source]:
    from xent.inspection._triton_sources import function_sources
    from xent.ops.native import (
        binary_cross_entropy_with_logits,
        cross_entropy,
        cross_entropy_total,
        linear_cross_entropy,
        logsumexp,
        nll_loss,
    )
    from xent.ops.triton import binary_cross_entropy_with_logits as of_triton

    return {
        (logsumexp._LogSumExp, 0): _whole_log_sum_exp,
        (cross_entropy._Rows, 0): _cross_entropy,
        (cross_entropy._Rows, 1): _weight_of_rows,
        (cross_entropy_total._Total, 0): _cross_entropy_total,
        (cross_entropy._RowsWithStats, 0): _cross_entropy,
        (cross_entropy._RowsWithStats, 1): _log_sum_exp,
        (cross_entropy._RowsWithStats, 2): _entropy,
        (cross_entropy._RowsWithStats, 3): _weight_of_rows,
        (nll_loss._Rows, 0): _native_nll,
        (nll_loss._Rows, 1): _weight_of_rows,
        (linear_cross_entropy._Total, 0): _linear_total,
        (linear_cross_entropy._Rows, 0): _linear_rows,
        (linear_cross_entropy._Rows, 1): _linear_statistic("exact_lse", LOGSUMEXP),
        (linear_cross_entropy._Rows, 2): _linear_statistic("entropy", ENTROPY),
        (binary_cross_entropy_with_logits._Elements, 0): _native_binary,
        (of_triton._Elements, 0): _native_binary,
        **function_sources(),
    }


def _cross_entropy_total(fold: Fold, edge: Edge) -> Tensor:
    terms, denominator = edge.node.terms, edge.node.denominator
    if terms.normalizer is None:
        values = _cross_entropy_leaf(fold, edge, terms.reduction).sum()
        return values if terms.reduction == "sum" else values / denominator
    fold.divisors.append(denominator)
    return _cross_entropy_leaf(fold, edge).sum() / denominator


def _cross_entropy(fold: Fold, edge: Edge) -> Tensor:
    return _cross_entropy_leaf(fold, edge).reshape(edge.shape)


def _cross_entropy_leaf(fold: Fold, edge: Edge, reduction: str | None = None) -> Tensor:
    from xent.inspection._whole_problems import rows_of_problem
    from xent.ops.native.saved_problem import problem_of

    edge.saved_tensors()  # raises in words where they are gone
    problem, saved = problem_of(edge.node)
    rows = rows_of_problem(problem, saved.exact_lse)
    return fold.leaf(Whole(rows.loss, "cross_entropy", problem, rows.lse, reduction))


def _native_nll(fold: Fold, edge: Edge) -> Tensor:
    from xent.backends import reference
    from xent.inspection._whole_problems import in_float64
    from xent.problem import Rows

    logits, target, weight, row_weight = edge.saved_tensors()
    terms = edge.node.terms.__class__(**{**vars(edge.node.terms), "weight": weight, "row_weight": row_weight})
    problem = Rows(logits, target, terms)
    behind = edge.operands[0]
    parts = [] if behind is None or row_weight is not None else _picked(behind, target, terms.ignore_index)
    known = class_dim_of(parts[0].base) if len(parts) == 1 else None
    if known is None:
        loss, _ = reference.nll_loss.rows(in_float64(problem))
        return fold.leaf(Whole(loss, "nll_loss", problem)).reshape(edge.shape)
    counted, part = target != terms.ignore_index, parts[0]
    row_weights = torch.ones(target.shape, dtype=torch.float64)
    if weight is not None:
        row_weights = weight.detach().double()[target.masked_fill(~counted, 0)]
    values = part.values().broadcast_to(target.shape)
    leaf = Picks(
        values, part.base, known, part.places, counted, row_weights, weight, terms.ignore_index, None, "nll_loss"
    )
    return torch.where(counted, -row_weights * part.factor * fold.leaf(leaf), 0.0).reshape(edge.shape)


def _picked(behind: Edge, target: Tensor, ignore_index: int) -> list[Part]:
    safe = target.masked_fill(target == ignore_index, 0)
    try:
        return parts_at(expression_of(behind), (*every_place(tuple(target.shape)), safe))
    except Unreadable:
        return []


def _weight_of_rows(fold: Fold, edge: Edge) -> Tensor:
    from xent.inspection._whole_problems import weights_of_problem
    from xent.problem import Rows

    logits, target, weight, row_weight = edge.saved_tensors()[:4]
    terms = edge.node.terms.__class__(**{**vars(edge.node.terms), "weight": weight, "row_weight": row_weight})
    return weights_of_problem(Rows(logits, target, terms)).reshape(edge.shape)


def _log_sum_exp(fold: Fold, edge: Edge) -> Tensor:
    from xent.ops.native.saved_problem import problem_of

    edge.saved_tensors()  # raises in words where they are gone
    problem, saved = problem_of(edge.node)
    if edge.node.terms.softcap is not None or edge.node.terms.logit_scale != 1:
        raise Unreadable(edge, "the log-sum-exp of scaled or capped logits")
    logits = read_or(edge.operands[0], problem.logits)
    leaf = LogSumExps(saved.exact_lse.reshape(-1), logits, len(logits.shape) - 1)
    return fold.leaf(leaf).reshape(edge.shape)


def _entropy(fold: Fold, edge: Edge) -> Tensor:
    from xent.ops.native.saved_problem import problem_of

    edge.saved_tensors()  # raises in words where they are gone
    entropy = problem_of(edge.node)[1].entropy
    if entropy is None:
        raise Unreadable(edge, "it kept no entropy")
    return fold.leaf(Other(entropy.reshape(edge.shape), edge, ENTROPY))


def _whole_log_sum_exp(fold: Fold, edge: Edge) -> Tensor:
    logits, exact_lse = edge.saved_tensors()
    table = read_or(edge.operands[0], logits)
    return fold.leaf(LogSumExps(exact_lse.reshape(-1), table, len(table.shape) - 1)).reshape(edge.shape)


def read_or(edge: Edge | None, saved: Tensor) -> Expression:
    """The logits as the graph makes them, so that a pick of them is known to be of the same; else as saved."""
    try:
        return Known(saved) if edge is None else expression_of(edge)
    except Unreadable:
        return Known(saved)


def _linear_total(fold: Fold, edge: Edge) -> Tensor:
    values = _linear_leaf(fold, edge)
    made, node = edge.node.values, edge.node
    if node.reduction == "sum":
        return values.sum()
    whole = made.weight.double().sum() if node.normalizer is None else torch.as_tensor(node.normalizer).double()
    return values.sum() / whole.detach().cpu().reshape(())


def _linear_rows(fold: Fold, edge: Edge) -> Tensor:
    return _linear_leaf(fold, edge).reshape(edge.shape)


def _linear_statistic(name: str, written: str) -> Source:
    def read(fold: Fold, edge: Edge) -> Tensor:
        edge.saved_tensors()  # raises in words where they are gone
        return fold.leaf(Other(getattr(edge.node.values, name).reshape(edge.shape), edge, written))

    return read


def _linear_leaf(fold: Fold, edge: Edge) -> Tensor:
    from xent.ops.native.linear_cross_entropy import _restored

    edge.saved_tensors()
    problem, values = _restored(edge.node), edge.node.values
    reduction = getattr(edge.node, "reduction", None)
    leaf = Whole(values.loss, "linear_cross_entropy", problem, values.exact_lse.double(), reduction)
    return fold.leaf(leaf)


def _native_binary(fold: Fold, edge: Edge) -> Tensor:
    kind = "binary_cross_entropy_with_logits"
    problem = Elements(*edge.saved_tensors())
    return fold.leaf(Whole(binary_rows(kind, problem), kind, problem))


def _squares(fold: Fold, edge: Edge) -> Tensor:
    """A mean squared error beside a cross-entropy: its value, made again."""
    difference = _saved_or_read(edge, 0, "self").double() - _saved_or_read(edge, 1, "target").double()
    value = reduced(difference.square().cpu(), None, _REDUCTION[signed(edge.saved("reduction"))])
    return fold.leaf(Other(value, edge))


ROW_SOURCES: dict[str, Source] = {
    "NllLoss": _nll,
    "NllLoss2D": _nll,
    "NllLossND": _nll,
    "MseLoss": _squares,
    "BinaryCrossEntropy": _binary("binary_cross_entropy"),
    "BinaryCrossEntropyWithLogits": _binary("binary_cross_entropy_with_logits"),
}
