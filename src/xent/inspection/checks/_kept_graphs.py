"""Graphs of steps long past that something still holds."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

from xent.inspection._nodes import Edge
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import nodes_behind
from xent.inspection.examination._run import Run

_MARK = "xent.doctor.kept"  # in the metadata of nodes; what lies there goes with the node
_MARKED = 12  # nodes of a graph, the nearest to the root
_AGE = 2  # steps of one optimizer: the last graph lives until its variable is bound again
_ENOUGH = 3  # graphs of different steps
_MOST = 256  # graphs that are followed; they come ever more seldom


class _Token:
    """Lives as long as the node it is put into."""

    __slots__ = ("__weakref__",)


@dataclass
class _Graph:
    """A graph that was used up: the first optimizer that stepped after it, and its how-manieth step that was."""

    token: weakref.ref[_Token]
    site: CallSite | None
    optimizer: int = 0
    step: int = 0


class _LossKeptAlive(Watcher):
    """Graphs that were used up by backward(), whose nodes still live two steps later."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._graphs: list[_Graph] = []
        self._later = False
        self._found = False

    def at_backward(self, backward: BackwardCall) -> None:
        """A graph that is kept on purpose (retain_graph, create_graph) is not followed."""
        if not backward.sampled or backward.is_grad or backward.retain_graph or backward.create_graph:
            return
        if backward.inputs is not None or len(self._graphs) >= _MOST:
            return
        token = _Token()
        for edge in _nearest(backward.edges):
            edge.node.metadata[_MARK] = token
        self._graphs.append(_Graph(weakref.ref(token), backward.site))

    def after_step(self, step: OptimizerStep) -> Iterator[Found] | None:
        self._graphs = [graph for graph in self._graphs if graph.token() is not None]
        key, now = id(step.optimizer), step.number
        for graph in self._graphs:
            if not graph.step:
                graph.optimizer, graph.step = key, now
        self._later = self._later or now > _AGE
        if self._found or not _are_many(self._old(key, now)):
            return None
        gc.collect()  # what lies in a cycle of references is held by nobody
        old = self._old(key, now)
        self._found = _are_many(old)
        return iter([self._of(old, now)]) if self._found else None

    def _old(self, optimizer: int, now: int) -> list[_Graph]:
        """Graphs of this optimizer that outlived later steps."""
        return [graph for graph in self._graphs
                if graph.optimizer == optimizer and now - graph.step >= _AGE and graph.token() is not None]  # fmt: skip

    def _of(self, old: list[_Graph], now: int) -> Found:
        return Found(
            message=f"at step {now} the graphs of {len(old)} losses of past steps were still alive, though backward() "
            "was done with them: something holds the losses as tensors (`total += loss`, `losses.append(loss)`), and "
            "memory grows with every step.",
            fix="keep the number: loss.item(), or loss.detach() where you must not wait for the device",
            proof=f"marks on the nodes of the losses of steps {', '.join(str(graph.step) for graph in old[:5])} "
            f"outlived {_AGE} further steps",
            values={"alive": len(old), "step": now},
            site=old[0].site,
        )

    def at_end(self) -> None:
        if not self._later:
            raise NotChecked(f"the run was shorter than {_AGE + 1} steps")


def _are_many(old: list[_Graph]) -> bool:
    return len({graph.step for graph in old}) >= _ENOUGH


def _nearest(edges: list[Edge]) -> Iterator[Edge]:
    """The nodes next to the root, without those that live with a parameter."""
    for count, edge in enumerate(nodes_behind(*edges)):
        if count >= _MARKED:
            return
        if not hasattr(edge.node, "variable"):
            yield edge


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
total = 0
for _ in range(20):
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss{}
"""

RULES = (
    Rule(
        slug="loss-kept-alive",
        severity="warning",
        certainty="signature",
        title="graphs of past steps stay alive",
        needs=("more than two steps",),
        watcher=_LossKeptAlive,
        example=_HEAD.format(""),
        corrected=_HEAD.format(".item()"),
    ),
)
