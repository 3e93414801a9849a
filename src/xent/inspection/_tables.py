"""From an edge of the graph to an expression of its tensor: what was saved, or the operation on what was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from xent.inspection._expressions import Elementwise, Expression, Known, Product, Reduced, View
from xent.inspection._leaves import LogProbabilities
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed
from xent.inspection._view_nodes import view_of

# Nodes that saved their own result, so that nothing behind them needs to be read.
_SAVED_RESULT = ("Softmax", "Exp", "Sigmoid", "Tanh", "Sqrt", "Relu", "Logsumexp", "LinalgVectorNorm")
_ONE_OPERAND: dict[str, Callable[[Tensor], Tensor]] = {
    "Neg": torch.neg,
    "Log": torch.log,
    "Log1P": torch.log1p,
    "Abs": torch.abs,
    "LogSigmoid": logsigmoid,
    "Square": torch.square,
}


def expression_of(edge: Edge) -> Expression:
    """The tensor at `edge`.

    Raises:
        Unreadable: the graph does not hold what it takes.
    """
    found = _from_function(edge) if edge.function else _from_torch(edge)
    if isinstance(found, Elementwise) and edge.dtype.is_floating_point and edge.dtype != torch.float64:
        found.rounded_to = edge.dtype
    return found


def operand(edge: Edge, place: int, name: str = "") -> Expression:
    """What the operation took at `place`: read from the graph, else as the node saved it under `name`."""
    operands = edge.operands
    behind = operands[place] if place < len(operands) else None
    if behind is not None:
        try:
            return expression_of(behind)
        except Unreadable:
            if not name or not isinstance(edge.saved(name), Tensor):
                raise
        return Known(edge.saved(name))
    return constant(edge, name)


def constant(edge: Edge, name: str) -> Expression:
    """A number or tensor that the node saved."""
    value: Any = edge.saved(name) if name else None
    if value is None:
        raise Unreadable(edge, "it took a tensor without a graph and did not keep it")
    return Known(
        value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64), is_factor=True
    )


def _from_function(edge: Edge) -> Expression:
    from xent.inspection._triton_sources import table_of
    from xent.ops.native import log_softmax, logsumexp

    if edge.function is log_softmax._LogSoftmax:
        result = edge.saved_tensors()[1]
        return LogProbabilities(result, class_dim=result.ndim - 1, behind=edge.operands[0])
    if edge.function is logsumexp._LogSumExp:
        return Known(edge.saved_tensors()[1].reshape(edge.shape))
    of_triton = table_of(edge)
    if of_triton is None:
        raise Unreadable(edge, "a function written in Python")
    return of_triton


def _from_torch(edge: Edge) -> Expression:
    kind = kind_of(edge)
    if edge.name == "AccumulateGrad":
        return Known(edge.node.variable)
    if kind == "LogSoftmax":
        dim = signed(edge.saved("dim")) % max(len(edge.shape), 1)
        return LogProbabilities(edge.saved("result"), class_dim=dim, behind=edge.operands[0])
    if kind in _SAVED_RESULT and isinstance(edge.saved("result"), Tensor):
        return Known(edge.saved("result"))
    if kind in _ONE_OPERAND:
        behind = logits_behind(edge.operands[0]) if kind == "Log" else None
        alone = edge.operands[0] is not None and edge.operands[0].name.startswith(("Sigmoid", "Rsub"))
        return Elementwise(kind, _ONE_OPERAND[kind], (operand(edge, 0, "self"),), behind, of_elements=alone)
    maker = _MAKERS.get(kind)
    if maker is not None:
        return maker(edge)
    view = _as_view(edge) if edge.operands else None
    if view is None:
        raise Unreadable(edge)
    return view


def logits_behind(probabilities: Edge | None) -> Edge | None:
    """X of softmax(x), or of exp(x) / Σ exp(x)."""
    if probabilities is None:
        return None
    kind = probabilities.name.rstrip("0123456789")
    if kind == "SoftmaxBackward":
        return probabilities.operands[0]
    quotient = probabilities.operands[0] if kind == "DivBackward" else None
    return quotient.operands[0] if quotient is not None and quotient.name.startswith("Exp") else None


def _as_view(edge: Edge) -> View | None:
    behind = edge.operands[0]
    if behind is None or view_of(edge, Expression.of_shape(behind.shape)) is None:
        return None
    return view_of(edge, operand(edge, 0, "self"))


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Edge], Expression]:
    def make(edge: Edge) -> Expression:
        name = edge.name.rstrip("0123456789")
        if edge.name.endswith("1") and len(edge.operands) == 1:  # the other operand is a number
            return Elementwise(name, function, (operand(edge, 0, "self"), constant(edge, "other")))
        return Elementwise(name, function, (operand(edge, 0, "self"), operand(edge, 1, "other")))

    return make


def _added(sign: int) -> Callable[[Edge], Expression]:
    def make(edge: Edge) -> Expression:
        alpha = sign * float(edge.saved("alpha") or 1)
        return Elementwise(f"Add{alpha}", lambda one, other: one + alpha * other, (operand(edge, 0), operand(edge, 1)))

    return make


def _power(edge: Edge) -> Expression:
    if edge.name.endswith("1"):  # one exponent for each element
        return Elementwise("Pow", torch.pow, (operand(edge, 0, "self"), operand(edge, 1, "exponent")))
    if isinstance(edge.saved("exponent"), Tensor):
        raise Unreadable(edge)
    exponent = float(edge.saved("exponent"))
    return Elementwise(f"Pow{exponent}", lambda base: base**exponent, (operand(edge, 0, "self"),))


def _masked_fill(edge: Edge) -> Expression:
    """The value of the fill is not saved; in losses it is 0, and the equality of the sum is the proof."""
    mask = Known(edge.saved("mask"))
    return Elementwise("MaskedFill", lambda value, hidden: value.masked_fill(hidden != 0, 0), (operand(edge, 0), mask))


def _sum(edge: Edge) -> Expression:
    base = operand(edge, 0, "self")
    given = edge.saved("dim")
    dims = tuple(signed(dim) % max(len(base.shape), 1) for dim in given) if given else tuple(range(len(base.shape)))
    return Reduced("Sum", lambda values: values.sum(-1), base, dims, bool(edge.saved("keepdim")))


def _log_sum_exp(edge: Edge) -> Expression:
    base = operand(edge, 0, "self")
    dims = tuple(signed(dim) % max(len(base.shape), 1) for dim in edge.saved("dim"))
    return Reduced("Logsumexp", lambda values: values.logsumexp(-1), base, dims, bool(edge.saved("keepdim")))


def _max(edge: Edge) -> Expression:
    if edge.output != 0 or edge.saved("dim") is None:
        raise Unreadable(edge)
    base = operand(edge, 0, "self")
    dim = signed(edge.saved("dim")) % max(len(base.shape), 1)
    return Reduced("Max", lambda values: values.amax(-1), base, (dim,), bool(edge.saved("keepdim")))


def _product(edge: Edge) -> Expression:
    if edge.name.startswith("Addmm"):
        if float(edge.saved("alpha") or 1) != 1 or float(edge.saved("beta") or 1) != 1:
            raise Unreadable(edge)
        bias = operand(edge, 0) if edge.operands[0] is not None else None
        if bias is None:
            raise Unreadable(edge, "its bias has no graph")
        return Product(operand(edge, 1, "mat1"), operand(edge, 2, "mat2"), bias)
    return Product(operand(edge, 0, "self"), operand(edge, 1, "mat2"), None)


_MAKERS: dict[str, Callable[[Edge], Expression]] = {
    "Mul": _two(torch.mul),
    "Div": _two(torch.div),
    "Add": _added(1),
    "Sub": _added(-1),
    "Pow": _power,
    "MaskedFill": _masked_fill,
    "Sum": _sum,
    "Logsumexp": _log_sum_exp,
    "Max": _max,
    "Addmm": _product,
    "Mm": _product,
}
