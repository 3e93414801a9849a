"""The losses behind a tensor, read from its graph: torch's nodes, xent's, and those written by hand.

Only the arithmetic between the tensor and its losses is walked; layers are not entered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from xent.errors import NotExplained
from xent.inspection._nodes import Edge, Unreadable, edge_of, kind_of, signed
from xent.inspection._term import Term
from xent.inspection.examination._events import BackwardCall, LossCall, LossTable
from xent.inspection.examination._provenance import VIEWS, saved

if TYPE_CHECKING:
    from xent.inspection._expressions import Expression

_MARK = "xent.doctor"  # in the metadata of the node of a loss whose call was observed
_REDUCTION = ("none", "mean", "sum")  # by torch's numbers
_NLL = ("NllLoss", "NllLoss2D", "NllLossND")
_BINARY = {
    "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits",
}
_BETWEEN = VIEWS.union(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Sum",
        "Mean",
        "Pow",
        "Exp",
        "Where",
        "MaskedFill",
        "Stack",
        "Cat",
        "CopySlices",
        "Clone",
        "Alias",
        "ToCopy",
        "Contiguous",
        "Rsub",
        "Xlogy",
        "Amax",
        "Max",
        "Minimum",
        "Maximum",
        "Clamp",
        "NanToNum",
    ]
)
_MADE_BY_HAND = ("LogSoftmax", "Logsumexp", "Log", "Log1P", "LogSigmoid", "Softplus", "LogaddExp")
_MOST_NODES = 2000


def mark_as_seen(loss: Tensor) -> None:
    """Remember on the node of a loss that its call was observed; the mark goes with the node."""
    loss.grad_fn.metadata[_MARK] = True  # type: ignore[union-attr]


def _is_marked(edge: Edge) -> bool:
    return _MARK in edge.node.metadata


def losses_behind(
    root: Tensor, backward: BackwardCall | None = None, terms: Sequence[Term] | None = None
) -> list[LossCall]:
    """A `LossCall` for each loss behind a tensor; `terms` are those that explain found, if it was asked already."""
    found: list[LossCall] = []
    by_hand = False
    for edge, seen in _loss_nodes(root):
        if edge is None:
            by_hand = by_hand or not seen
            continue
        call = _of_node(edge)
        if call is not None:
            call.was_seen = seen
            if call.table is not None:
                call.table.is_root = edge.node is root.grad_fn
            found.append(call)
    if by_hand:
        for call in map(_of_term, filter(_is_by_hand, _explained(root) if terms is None else terms)):
            call.was_seen = False
            found.append(call)
    for call in found:
        if backward is not None:
            call.site, call.number, call.sampled = backward.site, backward.number, backward.sampled
    return found


def _loss_nodes(root: Tensor) -> Iterator[tuple[Edge | None, bool]]:
    """(node of a loss, whether its call was seen); (None, …) where something by hand begins."""
    visited: set[Any] = set()
    waiting = [(edge_of(root), False)]
    while waiting and len(visited) < _MOST_NODES:
        edge, seen = waiting.pop()
        if edge.node in visited:
            continue
        visited.add(edge.node)
        kind = kind_of(edge)
        seen = seen or _is_marked(edge)
        if kind in _NLL or kind in _BINARY or _is_xents(edge):
            yield edge, seen
        elif kind in _MADE_BY_HAND:
            yield None, seen
        elif kind in _BETWEEN:
            waiting.extend((operand, seen) for operand in edge.operands if operand is not None)


def _is_xents(edge: Edge) -> bool:
    function = edge.function
    return function is not None and function.__module__.startswith("xent.ops.")


def _of_node(edge: Edge) -> LossCall | None:
    kind = kind_of(edge)
    if kind in _NLL:
        return _of_nll(edge)
    if kind in _BINARY:
        return _of_binary(edge, _BINARY[kind])
    return _of_xent(edge)


def _of_nll(edge: Edge) -> LossCall | None:
    target, log_probs = saved(edge, "target"), saved(edge, "self")
    reduction, ignore_index = saved(edge, "reduction"), saved(edge, "ignore_index")
    arguments = {
        "target": target,
        "weight": saved(edge, "weight"),
        "ignore_index": -100 if ignore_index is None else signed(ignore_index),
        "reduction": "mean" if reduction is None else _REDUCTION[signed(reduction)],
        "label_smoothing": 0.0,
    }
    behind = edge.operands[0]
    normaliser = behind
    while normaliser is not None and kind_of(normaliser) in ("View", "Squeeze", "Unsqueeze", "ToCopy"):
        normaliser = normaliser.operands[0]
    dim = None
    if normaliser is not None and kind_of(normaliser) == "LogSoftmax":
        dim = signed(saved(normaliser, "dim")) % max(len(normaliser.shape), 1)
        if normaliser == behind and dim != min(1, len(normaliser.shape) - 1):
            dim = None  # the user's own, over another dim than the one in which nll_loss looks for the classes
    if normaliser is not None and dim is not None:
        table = LossTable(edge=normaliser.operands[0], shape=normaliser.shape, class_dim=dim,
                          log_probs=saved(normaliser, "result"), node=edge)  # fmt: skip
        return LossCall(name="cross_entropy", origin="graph", arguments=arguments, table=table)
    if log_probs is None:
        return None
    table = LossTable(edge=behind, shape=tuple(log_probs.shape), class_dim=min(1, log_probs.ndim - 1), node=edge)
    return LossCall(name="nll_loss", origin="graph", arguments={**arguments, "input": log_probs}, table=table)


def _of_binary(edge: Edge, name: str) -> LossCall | None:
    input, target = saved(edge, "self"), saved(edge, "target")
    if input is None:
        return None
    reduction = saved(edge, "reduction")
    arguments = {
        "input": input,
        "target": target,
        "weight": saved(edge, "weight"),
        "pos_weight": saved(edge, "pos_weight"),
        "reduction": "mean" if reduction is None else _REDUCTION[signed(reduction)],
    }
    table = LossTable(edge=edge.operands[0], shape=tuple(input.shape), class_dim=max(input.ndim - 1, 0), node=edge)
    return LossCall(name=name, origin="graph", arguments=arguments, table=table)


def _of_xent(edge: Edge) -> LossCall | None:
    """A loss of xent's kernels: the term that explain reads of its node."""
    name = edge.function.__module__.rpartition(".")[2].removesuffix("_total") if edge.function else ""
    if name not in ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "linear_cross_entropy"):
        return None
    try:
        tensors = edge.saved_tensors()
    except NotExplained:
        return None
    if name == "linear_cross_entropy":
        return _of_linear(edge, tensors)
    if len(tensors) < 2:
        return None
    terms = getattr(edge.node, "terms", None)
    input = tensors[0]
    arguments = {"input": input, "target": tensors[1], "weight": tensors[2] if len(tensors) > 2 else None}
    for option in ("ignore_index", "label_smoothing"):
        if terms is not None:
            arguments[option] = getattr(terms, option)
    table = LossTable(edge=edge.operands[0], shape=tuple(input.shape), class_dim=max(input.ndim - 1, 0), node=edge)
    return LossCall(name=name, origin="graph", arguments=arguments, table=table)


def _of_linear(edge: Edge, tensors: Sequence[Tensor | None]) -> LossCall | None:
    """A loss without logits: hidden states, the layer and the targets, as its node saved them."""
    problem = getattr(edge.node, "problem", None)
    hidden, weight, bias, target, class_weight = tensors[:5]
    if problem is None or hidden is None or weight is None or target is None or problem.extra_shape:
        return None
    if target.ndim != hidden.ndim - (not target.is_floating_point()):
        return None  # the few classes of a sparse target
    terms = problem.terms
    arguments = {
        "input": hidden,
        "linear_weight": weight,
        "linear_bias": bias,
        "target": target,
        "weight": class_weight,
        "reduction": getattr(edge.node, "reduction", terms.reduction),
        **{name: getattr(terms, name) for name in ("ignore_index", "label_smoothing", "softcap", "logit_scale")},
    }
    table = LossTable(edge=edge.operands[0], shape=tuple(hidden.shape), class_dim=hidden.ndim - 1, node=edge)
    return LossCall(name="linear_cross_entropy", origin="graph", arguments=arguments, table=table)


def _explained(root: Tensor) -> Sequence[Term]:
    """What explain reads behind a tensor; nothing where it can't."""
    from xent.inspection._explain import explained_graph
    from xent.inspection._shown_rows import Names

    if _is_hooked(edge_of(root)):
        return ()
    try:
        with torch.enable_grad():
            return explained_graph(root, Names(None, None)).terms
    except (NotExplained, Unreadable):
        return ()


def _is_by_hand(term: Term) -> bool:
    written = term.written
    return not written.startswith("xent.") and written not in _BINARY.values() and "nll_loss" not in written


def _is_hooked(root: Edge) -> bool:
    """Whether hooks hold what the nodes of the loss saved: to read it would run the user's code."""
    waiting, visited = [root], set()
    while waiting and len(visited) < _MOST_NODES:
        edge = waiting.pop()
        if edge.node in visited:
            continue
        visited.add(edge.node)
        for name in dir(edge.node):
            if name.startswith("_raw_saved_"):
                raw = getattr(edge.node, name)
                parts = raw if isinstance(raw, (list, tuple)) else (raw,)
                if any(getattr(part, "unpack_hook", None) is not None for part in parts):
                    return True
        if kind_of(edge) in _BETWEEN or kind_of(edge) in _MADE_BY_HAND:
            waiting.extend(operand for operand in edge.operands if operand is not None)
    return False


def _of_term(term: Term) -> LossCall:
    name: Literal["cross_entropy"] | str = term.kind
    shape = term.row_shape
    arguments: dict[str, Any] = {
        "target": None if term.target is None else _reshaped(_with_ignored(term, term.target), shape),
        "weight": term.class_weight,
        "ignore_index": term.ignore_index,
        "reduction": term.reduction,
        "label_smoothing": term.label_smoothing,
    }
    table = _table_of(term)
    return LossCall(name=name, origin="by hand", arguments=arguments, table=table)


def _with_ignored(term: Term, target: Tensor) -> Tensor:
    """Where a mask leaves rows out and no ignore_index does, their targets are given the usual one."""
    if term.ignore_index is not None or target.is_floating_point() or target.shape != term.counted.shape:
        return target
    return target.masked_fill(~term.counted, -100)


def _reshaped(target: Tensor, shape: tuple[int, ...]) -> Tensor:
    return target.reshape(shape) if target.numel() == torch.Size(shape).numel() else target


def _table_of(term: Term) -> LossTable:
    from xent.inspection._scores import TableScores

    scores = term.scores
    if isinstance(scores, TableScores):
        logits, log_probs = _logits_edge(scores.table), getattr(scores.table, "tensor", None)
        return LossTable(edge=logits, shape=scores.table.shape, class_dim=scores.class_dim, log_probs=log_probs,
                         term=term)  # fmt: skip
    table = getattr(scores, "table", None)
    shape = table.shape if table is not None else (*scores.row_shape, scores.num_classes)
    if term.is_binary:
        shape = term.row_shape
    class_dim = getattr(scores, "class_dim", max(len(shape) - 1, 0))
    return LossTable(edge=None, shape=shape, class_dim=class_dim, term=term)


def _logits_edge(table: Expression | None) -> Edge | None:
    while table is not None:
        behind = getattr(table, "behind", None)
        if isinstance(behind, Edge):
            return behind
        table = getattr(table, "base", None)
    return None
