"""Where the values of a tensor come from: the operations between it and the one that made them.

Nothing is computed and nothing is unpacked: a node whose saved tensors went through hooks (activation checkpointing,
offloading) would run the user's forward again if they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xent.inspection._nodes import Edge, kind_of, signed
from xent.inspection.examination._dims import dims_below
from xent.inspection.examination._finding import NotChecked

# What leaves values as they are, or scales them: the maker is looked for behind it.
VIEWS = frozenset(
    [
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "Unflatten",
        "Permute",
        "Transpose",
        "T",
        "Movedim",
        "Select",
        "Unbind",
        "Slice",
        "Split",
        "SplitWithSizes",
        "Gather",
        "IndexSelect",
        "MaskedSelect",
        "Diagonal",
        "Expand",
        "Flip",
        "Index",
        "AsStrided",
    ]
)
_COPIES = frozenset(["Clone", "Alias", "ToCopy", "Contiguous", "Lift", "LiftFresh"])
_SCALES = frozenset(["Mul", "Div"])
_MOST_NODES = 200_000  # a graph that is larger is read up to here


@dataclass(frozen=True)
class Step:
    """One operation that was walked through, or the maker at the end.

    Attributes:
        kind: "Transpose", "View", "Index", "ToCopy", "Mul", "CopySlices", …: the node's name without BackwardN.
        shape: what it gave.
        edge: the node, for those who need more; `saved(edge, name)` reads what it saved.
        dims: for each dim of the tensor asked about, the dim of this step's result that holds it; None where a view
            mixed or dropped it.
    """

    kind: str
    shape: tuple[int, ...]
    edge: Edge
    dims: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """The node's name as the user may know it: SoftmaxBackward0."""
        return self.edge.name


@dataclass(frozen=True)
class Provenance:
    """The way from a tensor down to what made its values.

    Attributes:
        steps: views, copies and scalings, from the tensor down.
        maker: the operation that made the values; None where that has no graph (a constant).
        scale: the product of the constants that were multiplied in; None if one is no number.
    """

    steps: tuple[Step, ...]
    maker: Step | None
    scale: float | None = 1.0

    def made_by(self, *kinds: str) -> bool:
        """Whether the maker is one of these kinds, such as "Softmax"."""
        return self.maker is not None and self.maker.kind in kinds

    @property
    def is_hidden(self) -> bool:
        """Whether the maker is a compiled graph: one node, whatever is in it."""
        return self.maker is not None and self.maker.kind.startswith("Compiled")

    def maker_dim(self, dim: int) -> int | None:
        """Which dim of the maker's result became `dim` of the tensor; None where a view mixed it."""
        if self.maker is None:
            return None
        dims = self.maker.dims
        return dims[dim % len(dims)] if dims else None

    @property
    def edited_in_place(self) -> bool:
        """Whether `x[...] = ...` or another in-place write of a slice lies between."""
        return any(step.kind == "CopySlices" for step in self.steps)

    def __str__(self) -> str:
        steps = (*self.steps, self.maker) if self.maker else self.steps
        return " ← ".join(f"{step.kind}{tuple(step.shape)}" for step in steps)


def provenance_of(tensor: Tensor) -> Provenance:
    """Read the graph behind a tensor.

    Raises:
        NotChecked: it has none, or is hidden (functorch).
    """
    if tensor.grad_fn is None:
        if tensor.requires_grad:
            return Provenance((), None)
        raise NotChecked("no graph behind the logits")
    return provenance_of_edge(Edge(tensor.grad_fn, tensor.output_nr))


def provenance_of_edge(edge: Edge) -> Provenance:
    """The same from an edge of the graph."""
    steps: list[Step] = []
    scale: float | None = 1.0
    dims: tuple[int | None, ...] = tuple(range(len(edge.shape)))
    while True:
        step = Step(kind_of(edge), edge.shape, edge, dims)
        below = _walked_through(edge, step.kind)
        if below is None:
            return Provenance(tuple(steps), step, scale)
        steps.append(step)
        if step.kind in _SCALES:
            scale = _scaled(scale, edge, step.kind)
        inner = dims_below(edge, step.kind, below.shape)
        dims = tuple(None if dim is None else inner[dim] for dim in dims)
        edge = below


def _walked_through(edge: Edge, kind: str) -> Edge | None:
    """The operand that is behind a view, copy or scaling; None where the values are made here."""
    operands = [operand for operand in edge.operands if operand is not None]
    if kind in VIEWS or kind in _COPIES:
        return operands[0] if operands else None
    if kind == "CopySlices":  # [the base, …]; the values written may have a graph too
        return edge.operands[0]
    if kind in _SCALES and len(operands) == 1 and edge.operands[0] is not None and operands[0].shape == edge.shape:
        return operands[0]
    return None


def _scaled(scale: float | None, edge: Edge, kind: str) -> float | None:
    other = saved(edge, "other")
    if isinstance(other, Tensor):
        other = other.item() if other.numel() == 1 and other.device.type == "cpu" else None
    if scale is None or not isinstance(other, (int, float)) or (kind == "Div" and other == 0):
        return None
    return scale * other if kind == "Mul" else scale / other


def saved(edge: Edge, name: str) -> Any:
    """What a node saved under a name; None if nothing, if it is freed, or if hooks would have to unpack it."""
    raw = getattr(edge.node, f"_raw_saved_{name}", None)
    if raw is not None:
        for part in raw if isinstance(raw, (list, tuple)) else (raw,):
            if getattr(part, "unpack_hook", None) is not None:
                return None
    try:
        return getattr(edge.node, f"_saved_{name}", None)
    except RuntimeError:
        return None


def saved_dim(edge: Edge, name: str = "dim") -> int | None:
    """A saved dim as a number from 0; None if the node has none."""
    dim = saved(edge, name)
    return None if dim is None else signed(dim) % max(len(edge.shape), 1)


def nodes_behind(*edges: Edge) -> Iterator[Edge]:
    """Every node of a graph, each once, the nearest first."""
    seen: set[Any] = set()
    level = [edge.node for edge in edges]
    while level and len(seen) < _MOST_NODES:
        below = []
        for node in level:
            if node in seen:
                continue
            seen.add(node)
            yield Edge(node, 0)
            below.extend(next_node for next_node, _ in node.next_functions if next_node is not None)
        level = below


def parameters_behind(*edges: Edge) -> list[Tensor]:
    """The leaves that a backward from here gives a gradient to."""
    return [edge.node.variable for edge in nodes_behind(*edges) if hasattr(edge.node, "variable")]


def leaf_taken_by(edge: Edge) -> Tensor | None:
    """The parameter that an operation took, a transposed one first: a weight says more than a bias."""
    behind = [each.operands[0] for each in edge.operands if each is not None and kind_of(each) in ("T", "Transpose")]
    for each in (*behind, *edge.operands):
        if each is not None and hasattr(each.node, "variable"):
            return each.node.variable
    return None


def embedded_ids_behind(*edges: Edge) -> list[Tensor]:
    """The index tensors of every embedding behind a tensor."""
    found = (saved(edge, "indices") for edge in nodes_behind(*edges) if kind_of(edge) == "Embedding")
    return [ids for ids in found if isinstance(ids, Tensor)]
