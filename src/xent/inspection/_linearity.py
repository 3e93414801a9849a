"""Whether a value moves with its rows in proportion: sums, means and factors that no row is part of."""

from __future__ import annotations

from torch import Tensor

_LINEAR = frozenset({
    "torch::autograd::AccumulateGrad", "Add", "Sub", "Neg", "Sum", "Mean", "MaskedFill", "Where", "Cat", "Stack",
    "Index", "Select", "Slice", "Split", "Unbind", "Expand", "View", "UnsafeView", "ReshapeAlias", "AsStrided",
    "Squeeze", "Unsqueeze", "Permute", "Transpose", "T", "Clone", "Alias", "ToCopy",
})  # fmt: skip
_BY_A_CONSTANT = frozenset(("Mul", "Div"))


def is_linear(derived: Tensor) -> bool:
    """Whether the fold that made `derived` is linear in its leaves, by the operations in its graph."""
    at, seen = [derived.grad_fn], set()
    while at:
        node = at.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind, behind = node.name().partition("Backward")[0], [edge for edge, _ in node.next_functions]
        if kind in _BY_A_CONSTANT:
            one, other = behind
            if other is not None and (kind == "Div" or one is not None):
                return False
        elif kind not in _LINEAR:
            return False
        at.extend(behind)
    return True
