"""How tokens reach the logits: through one tensor that is too narrow for a sequence, or under a causal mask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xent.inspection._nodes import Edge, kind_of
from xent.inspection.checks._token_rows import TokenRows
from xent.inspection.examination._provenance import nodes_behind, saved

_MOST_NODES = 50_000  # of a graph that is searched
_MASKED = -1e4  # an addend of the scores below which nothing is attended to
Shape = tuple[int, ...]


def is_squeezed(logits: Edge, embeddings: set[Any], rows: TokenRows) -> bool:
    """Whether all that these embeddings tell the logits goes through one tensor without the positions of a sequence.

    So it does in an autoencoder: it writes again what it read, and can't copy it.
    """
    for shapes in _on_every_way(logits, embeddings):
        together = (len(shapes), *shapes[0])  # positions that were taken apart, one result for each
        if not any(_has_positions(shape, rows) for shape in (*shapes, together)):
            return True
    return False


def _has_positions(shape: Shape, rows: TokenRows) -> bool:
    """Whether there is a feature vector for each token: in a dim of their own, flattened, or packed without padding."""
    batch, length = rows.target.shape
    sizes = [size for size in shape if size != 1]
    if len(sizes) > 2:
        lengths = {length, length + rows.offset}
        return sum(size in lengths for size in sizes) > (batch in lengths)
    return len(sizes) == 2 and 2 * sizes[0] >= int(rows.counted.sum())


def _on_every_way(start: Edge, ends: set[Any]) -> Iterator[list[Shape]]:
    """Of each node that every way from `start` to one of `ends` passes: the shapes of the results that are used.

    In topological order, a node is on every way if all ways that were begun lead to it when its turn comes.
    """
    order = _topological(start.node)
    leading: set[Any] = set(ends)
    for node in reversed(order):
        if any(below in leading for below, _ in node.next_functions):
            leading.add(node)
    begun: dict[Any, set[int]] = {start.node: {start.output}}
    for node in order:
        if node in ends:
            return
        if node not in leading:
            continue
        used = begun.pop(node)
        if not begun:
            yield [Edge(node, output).shape for output in used]
        for below, output in node.next_functions:
            if below in leading:
                begun.setdefault(below, set()).add(output)


def _topological(start: Any) -> list[Any]:
    """Every node behind one, each before those that it was made from; empty where they are too many."""
    left: dict[Any, int] = {}
    waiting = [start]
    seen = {start}
    while waiting:
        node = waiting.pop()
        for below, _ in node.next_functions:
            if below is None:
                continue
            left[below] = left.get(below, 0) + 1
            if below not in seen:
                if len(seen) >= _MOST_NODES:
                    return []
                seen.add(below)
                waiting.append(below)
    order, ready = [], [start]
    while ready:
        node = ready.pop()
        order.append(node)
        for below, _ in node.next_functions:
            if below is not None:
                left[below] -= 1
                if not left[below]:
                    ready.append(below)
    return order


def is_causal(logits: Edge) -> bool:
    """Whether an attention behind the logits was kept from looking ahead."""
    return any(_looks_back(edge) for edge in nodes_behind(logits))


def _looks_back(edge: Edge) -> bool:
    kind = kind_of(edge)
    if kind in ("Softmax", "SafeSoftmax"):
        attention = _square(saved(edge, "result"))
        return attention is not None and not bool(attention.triu(1).any())
    if not kind.startswith("ScaledDotProduct"):
        return False
    mask = _square(saved(edge, "attn_mask"))
    mask = _square(saved(edge, "attn_bias")) if mask is None else mask
    ahead = None if mask is None else mask[torch.ones_like(mask, dtype=torch.bool).triu(1)]
    return bool(saved(edge, "is_causal")) or (ahead is not None and bool((ahead < _MASKED).all()))


def _square(table: object) -> Tensor | None:
    """The first matrix, from queries to keys, where both are the same positions."""
    if not isinstance(table, Tensor) or table.ndim < 2 or not table.is_floating_point() or not table.numel():
        return None
    length = table.shape[-1]
    return table.reshape(-1, length, length)[0] if length == table.shape[-2] > 2 else None
