"""What layer wrote a tensor, and along which dim its outputs lie: read from the graph, nothing is computed."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xent.inspection._nodes import Edge, kind_of
from xent.inspection.examination._provenance import Provenance, provenance_of_edge, saved, saved_dim
from xent.inspection.examination._values import readable

_OUTPUTS_LAST = frozenset({"Embedding", "MkldnnRnnLayer", "CudnnRnn"})
_OUTPUTS_SECOND = frozenset({"Convolution", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm"})
_LEAVES_DIMS = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "Gelu",
        "Elu",
        "Silu",
        "Tanh",
        "Sigmoid",
        "Softplus",
        "Hardtanh",
        "Softmax",
        "LogSoftmax",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "MaskedFill",
        "Where",
        "Clamp",
        "NativeLayerNorm",
        "NativeDropout",
    ]
)
_WEIGHT_VIEWS = frozenset(
    ["T", "Transpose", "Permute", "View", "UnsafeView", "ToCopy", "Unsqueeze", "Squeeze", "Expand", "Clone"]
)
_SQUASHED = frozenset(["Softmax", "Sigmoid", "Exp", "Clamp", "Hardsigmoid"])
_MOST_OPERATIONS = 8  # between a layer and the tensor asked about, so that a deep graph costs nothing


def output_dim(edge: Edge, most: int = _MOST_OPERATIONS) -> int | None:
    """The dim of a tensor along which the outputs of the layer behind it lie; None where that can't be told."""
    made = provenance_of_edge(edge)
    if made.maker is None or made.edited_in_place:
        return None
    dim = _dim_where_made(made.maker.edge, most)
    return made.maker.dims.index(dim) if dim is not None and dim in made.maker.dims else None


def _dim_where_made(edge: Edge, most: int) -> int | None:
    kind, rank = kind_of(edge), len(edge.shape)
    if kind in ("Addmm", "Mm"):
        return _dim_of_product(edge, kind)
    if kind in _OUTPUTS_LAST:
        return rank - 1
    if kind in _OUTPUTS_SECOND:
        return 1
    if kind in _LEAVES_DIMS and most:
        alike = [operand for operand in edge.operands if operand is not None and operand.shape == edge.shape]
        found = (output_dim(operand, most - 1) for operand in alike[:2])
        return next((dim for dim in found if dim is not None), None)
    return None


def _dim_of_product(edge: Edge, kind: str) -> int | None:
    """Of x @ W the last, of W @ x the first; None where no factor is a parameter."""
    left, right = edge.operands[-2:]
    if is_parameter(right):
        return 1
    if is_parameter(left):
        return 0
    return 1 if kind == "Addmm" and is_parameter(edge.operands[0]) else None


def is_parameter(edge: Edge | None) -> bool:
    """Whether a tensor is a leaf that is trained, or a view of one."""
    while edge is not None and kind_of(edge) in _WEIGHT_VIEWS:
        edge = edge.operands[0]
    return edge is not None and kind_of(edge) == "AccumulateGrad"


def raw_layer(made: Provenance) -> str:
    """The name of the node if a linear layer, convolution or embedding made the values, nothing after it; "" else."""
    if made.maker is None or made.edited_in_place or made.scale is None:
        return ""
    return _raw_node(made.maker.edge)


def _raw_node(edge: Edge) -> str:
    kind = kind_of(edge)
    if kind == "Add":  # x @ W + bias
        first, second = (*edge.operands, None)[:2]
        if first is not None and is_parameter(second):
            return raw_layer(provenance_of_edge(first))
        return ""
    if kind in ("Convolution", "Embedding"):
        return edge.name if is_parameter(edge.operands[1 if kind == "Convolution" else 0]) else ""
    return edge.name if kind in ("Addmm", "Mm") and _dim_of_product(edge, kind) is not None else ""


def may_mix_probabilities(made: Provenance) -> bool:
    """Whether a product without a bias has a factor between 0 and 1: it may be a mixture of probabilities."""
    if made.maker is None or made.maker.kind != "Mm":
        return False
    edge = made.maker.edge
    for factor, name in zip(edge.operands, ("self", "mat2"), strict=False):
        if factor is not None and not is_parameter(factor) and provenance_of_edge(factor).made_by(*_SQUASHED):
            return True
        if factor is None and _is_between_0_and_1(saved(edge, name)):
            return True
    return False


def _is_between_0_and_1(values: Any) -> bool:
    if not isinstance(values, Tensor) or not values.numel():
        return True  # not kept: it may be
    low, high = readable(values).aminmax()
    return bool(low >= 0) and bool(high <= 1)


def layer_below(made: Provenance, dim: int) -> tuple[int | None, int | None]:
    """For a linear layer: `dim` of its result as a dim of what it was given, and the `output_dim` of that.

    A linear layer folds all dims but the last: (N, T, D) → (N·T, D) → (N·T, C) → (N, T, C).
    """
    if made.maker is None:
        return None, None
    if made.maker.kind == "Add" and is_parameter(made.maker.edge.operands[-1]):
        product, place = made.maker.edge.operands[0], made.maker.dims[dim]
        return (None, None) if product is None or place is None else layer_below(provenance_of_edge(product), place)
    if made.maker.kind not in ("Addmm", "Mm"):
        return None, None
    given = made.maker.edge.operands[-2]
    unfolded = made.steps[-1] if made.steps else made.maker
    if given is not None and kind_of(given) in ("View", "UnsafeView", "ReshapeAlias"):
        given = given.operands[0]
    if given is None or given.shape[:-1] != unfolded.shape[:-1]:
        return None, None
    return unfolded.dims[dim], output_dim(given)


def normalised_dim(made: Provenance) -> int | None:
    """The dim of the tensor asked about that a softmax or log-softmax behind it ran over; None if views mixed it."""
    if made.maker is None:
        return None
    dim = saved_dim(made.maker.edge)
    return made.maker.dims.index(dim) if dim is not None and dim in made.maker.dims else None
