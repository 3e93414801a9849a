"""The autograd graph, read and never changed: nodes, what they saved, and in words what can't be had.

The `_saved_*` names are torch's own and may change with its version: every one is asked for, none is relied upon.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xent.errors import NotExplained

BY_ARGUMENTS = "pass the tensors: xent.explain(input, target, …) with the arguments of the loss"
_UNSIGNED, _SIGNED = 1 << 64, 1 << 63  # negative numbers are shown as 64 unsigned bits


class Edge(NamedTuple):
    """One output of one node: a tensor that the graph knows."""

    node: Any
    output: int

    @property
    def name(self) -> str:
        """The node's name, such as NllLossBackward0."""
        return self.node.name().rpartition("::")[2]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.node._input_metadata[self.output].shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the tensor."""
        return self.node._input_metadata[self.output].dtype

    @property
    def operands(self) -> list[Edge | None]:
        """What the node's operation took; None for what has no graph."""
        return [None if node is None else Edge(node, output) for node, output in self.node.next_functions]

    @property
    def function(self) -> type | None:
        """The `torch.autograd.Function` of a node written in Python."""
        return getattr(self.node, "_forward_cls", None)

    @property
    def key(self) -> tuple[int, int]:
        """Equal for equal edges, while the graph is alive."""
        return id(self.node), self.output

    def saved(self, name: str) -> Any:
        """What the node saved under `name`; None if nothing."""
        try:
            return getattr(self.node, f"_saved_{name}", None)
        except RuntimeError as error:
            raise _no_longer_there(self, error) from error

    def saved_tensors(self) -> tuple[Tensor, ...]:
        """What a node written in Python saved."""
        try:
            return self.node.saved_tensors
        except RuntimeError as error:
            raise _no_longer_there(self, error) from error


def edge_of(tensor: Tensor) -> Edge:
    """The edge that made `tensor`."""
    return Edge(tensor.grad_fn, tensor.output_nr)


def kind_of(edge: Edge) -> str:
    """The name of the edge's operation: Mul for MulBackward0 and MulBackward1."""
    return edge.name.rstrip("0123456789").removesuffix("Backward")


def signed(number: int) -> int:
    """A number as the node's operation got it."""
    return number - _UNSIGNED if number >= _SIGNED else number


class Unreadable(Exception):  # noqa: N818  (caught inside: an addend that can't be read is not the end)
    """The graph does not hold what this edge's value needs."""

    def __init__(self, edge: Edge, reason: str = "") -> None:
        super().__init__(edge, reason)
        self.edge, self.reason = edge, reason

    def in_words(self) -> NotExplained:
        """What the user is told."""
        reason = f" ({self.reason})" if self.reason else ""
        if self.edge.name.startswith("Compiled"):
            reason = " (compiled: one node, whatever is in it)"
        return NotExplained(
            f"the graph behind the loss leads to {self.edge.name} of shape {self.edge.shape}{reason}",
            "its operations must be those of a cross-entropy that explain knows",
            BY_ARGUMENTS,
        )


def _no_longer_there(edge: Edge, error: RuntimeError) -> NotExplained:
    if "inplace" in str(error):
        return NotExplained(
            f"a tensor that {edge.name} saved was changed in place since",
            "the graph must hold what the loss was computed from",
            "explain the loss before the change, or change a clone",
        )
    return NotExplained(
        f"{edge.name} no longer has what it saved: backward() freed the graph",
        "the graph must be whole",
        "call xent.explain(loss) before loss.backward(), or pass the tensors: xent.explain(input, target, …)",
    )
