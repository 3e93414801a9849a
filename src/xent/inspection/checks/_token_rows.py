"""The targets of a loss as rows of tokens, and the ids that the model read: (B, T) each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xent.inspection._nodes import Edge, kind_of, signed
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import NotChecked
from xent.inspection.examination._provenance import Step, nodes_behind, saved

_MOST_TOKENS = 1 << 18  # that are compared in one call
_MOST_NODES = 5000  # of a graph that is searched for a way
_IN_PLACE = frozenset(
    [
        *("Add", "Sub", "Mul", "Div", "Addmm", "Mm", "Linear", "View", "UnsafeView", "ReshapeAlias", "Transpose"),
        *("Clone", "ToCopy", "Alias", "NativeLayerNorm", "FusedRmsNorm", "NativeDropout", "Relu", "Gelu", "Silu"),
        *("Tanh", "Sigmoid", "LogSoftmax"),
    ]
)


@dataclass(frozen=True)
class TokenRows:
    """Targets (B, T) as a language model has them.

    Attributes:
        target: class indices.
        counted: which of them count.
        offset: the position of the input that target 0 stands at: 1 for logits[:, 1:].
    """

    target: Tensor
    counted: Tensor
    offset: int


def token_rows(call: LossCall) -> TokenRows:
    """The targets of a call in their rows, which a flattened target has lost: the graph of the logits has them.

    Raises:
        NotChecked: there are no rows of tokens.
    """
    target = call.class_indices
    shape = _row_shape(call, target)
    if shape is None or shape[1] < 2 or target.numel() > _MOST_TOKENS:
        raise NotChecked("the targets are no rows of tokens")
    target = target.reshape(shape)
    return TokenRows(target, target != call.ignore_index, _offset(call))


def ids_read(call: LossCall, rows: TokenRows) -> list[Tensor]:
    """The ids (B, T') that embeddings behind the logits read, T' ≥ T; positions and token types are left out.

    Raises:
        NotChecked: no graph.
    """
    return _fitting(call.embedded_ids, rows)


def reading_embeddings(call: LossCall, rows: TokenRows) -> set[Any]:
    """The nodes of the embeddings that read such ids.

    Raises:
        NotChecked: no graph.
    """
    return {
        edge.node for edge in nodes_behind(call.edge)
        if kind_of(edge) == "Embedding" and isinstance(ids := saved(edge, "indices"), Tensor) and _fitting([ids], rows)
    }  # fmt: skip


def ids_read_in_place(call: LossCall, rows: TokenRows) -> list[Tensor]:
    """Those of embeddings from which a way leads to the logits that never leaves its position (a residual stream, no
    attention): what is read at t reaches the prediction at t.

    Raises:
        NotChecked: no graph.
    """
    return _fitting(_embedded_in_place(call.edge), rows)


def _embedded_in_place(logits: Edge) -> list[Tensor]:
    found: list[Tensor] = []
    waiting, seen = [logits], set()
    while waiting and len(seen) < _MOST_NODES:
        edge = waiting.pop()
        if edge.node in seen:
            continue
        seen.add(edge.node)
        kind = kind_of(edge)
        if kind == "Embedding":
            ids = saved(edge, "indices")
            found += [ids] if isinstance(ids, Tensor) else []
        elif kind in _IN_PLACE:
            waiting.extend(each for each in edge.operands if each is not None and _keeps_positions(edge, kind, each))
    return found


def _keeps_positions(edge: Edge, kind: str, operand: Edge) -> bool:
    """Whether features stay the last dim: a view or transpose of them may mix positions."""
    if hasattr(operand.node, "variable"):
        return False  # a weight, the end of this way
    if kind in ("View", "UnsafeView", "ReshapeAlias"):
        return edge.shape[-1:] == operand.shape[-1:]
    if kind == "Transpose":
        moved = {signed(saved(edge, name) or 0) % len(edge.shape) for name in ("dim0", "dim1")}
        return len(edge.shape) - 1 not in moved
    return True


def _fitting(given_ids: list[Tensor], rows: TokenRows) -> list[Tensor]:
    batch, length = rows.target.shape
    found = []
    for given in given_ids:
        ids = _as_rows(given.detach(), batch)
        if ids is not None and ids.shape[1] + rows.offset >= length and not _are_positions(ids):
            found.append(ids)
    return found


def _row_shape(call: LossCall, target: Tensor) -> tuple[int, int] | None:
    if target.ndim == 2:
        return target.shape[0], target.shape[1]
    if target.ndim != 1:
        return None
    for step in _steps(call):
        shape = step.shape
        if len(shape) == 3:
            dims = step.dims
            classes = dims[call.class_dim] if len(dims) > call.class_dim else None
            rows = [size for dim, size in enumerate(shape) if dim != (2 if classes is None else classes)]
            if math.prod(rows) == target.numel() and rows[1] > 1:
                return rows[0], rows[1]
    return None


def _offset(call: LossCall) -> int:
    """How many positions were cut off in front: Slice keeps where it began."""
    total = 0
    for step in _steps(call):
        if step.kind == "Slice" and len(step.shape) == 3 and saved(step.edge, "dim") is not None:
            dim, start = signed(saved(step.edge, "dim")) % 3, saved(step.edge, "start")
            total += signed(start) if dim == 1 and start is not None and 0 < signed(start) < 1 << 40 else 0
    return total


def _steps(call: LossCall) -> tuple[Step, ...]:
    try:
        found = call.provenance
    except NotChecked:
        return ()
    return (*found.steps, found.maker) if found.maker is not None else found.steps


def _as_rows(ids: Tensor, batch: int) -> Tensor | None:
    if ids.is_floating_point() or ids.numel() > _MOST_TOKENS:
        return None
    if ids.ndim == 2 and ids.shape[0] == batch:
        return ids
    return ids.reshape(batch, -1) if batch and ids.ndim == 1 and ids.numel() % batch == 0 and batch > 1 else None


def _are_positions(ids: Tensor) -> bool:
    """0, 1, 2, … in every row, or one value for many: not what was read."""
    if ids.shape[1] > 1 and bool((ids[:, 1:] - ids[:, :-1] == 1).all()):
        return True
    return len(torch.unique(ids[:64])) <= 2
