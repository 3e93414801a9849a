"""Parameters that an optimizer holds and that no backward ever gives a gradient."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import ModuleDict, ModuleList, Parameter
from torch.optim import Optimizer

from xent.inspection._nodes import Edge, kind_of
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import leaf_taken_by
from xent.inspection.examination._run import Run

_PLACE = re.compile(r"(?<=\.)(\w+)(?=\.)")  # an index or key in a name: layers.3.weight


@dataclass
class _Waiting:
    """Parameters of one optimizer that had no gradient yet.

    Attributes:
        left: those, by their id; a parameter that is gone stays (it never had one).
        num_parameters: how many it holds.
        names: of those left, and of those reached, once they were asked for.
        frontier: how far back the graph goes, in words.
    """

    optimizer: weakref.ref[Optimizer]
    left: dict[int, weakref.ref[Tensor]]
    shapes: dict[int, tuple[int, ...]]
    num_parameters: int
    site: CallSite | None
    num_steps: int = 0
    names: dict[int, str] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    frontier: str = ""

    def look(self) -> None:
        """Strike out those that have a gradient, or need none."""
        for key, reference in list(self.left.items()):
            parameter = reference()
            if parameter is not None and (parameter.grad is not None or not parameter.requires_grad):
                del self.left[key]


class _Unreached(Watcher):
    """Looks at `.grad` alone, so that it does not matter how a gradient comes there (checkpointing, heads in turn).

    It hears of every step while a parameter is waiting, and may sleep else. Bare tensors are left out: one may be there
    for a scheduler alone.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._waiting: dict[int, _Waiting] = {}
        self._all_names: dict[int, str] = {}
        self._dicts: set[str] = set()  # names of ModuleDicts and ModuleLists, with a dot
        self._lists: set[str] = set()

    def at_backward(self, backward: BackwardCall) -> None:
        if not backward.sampled or backward.is_grad:
            return
        for waiting in self._waiting.values():
            if waiting.left and waiting.num_steps:
                self._name(waiting)
                waiting.frontier = waiting.frontier or _frontier(backward, self._all_names)

    def after_backward(self, backward: BackwardCall) -> None:
        self._look()

    def at_step(self, step: OptimizerStep) -> None:
        waiting = self._waiting_of(step)
        waiting.look()

    def after_step(self, step: OptimizerStep) -> None:
        waiting = self._waiting_of(step)
        waiting.look()  # a closure made them
        waiting.num_steps += 1
        self.every_step = any(each.left for each in self._waiting.values())

    def _look(self) -> None:
        for waiting in self._waiting.values():
            if waiting.left:
                waiting.look()

    def _waiting_of(self, step: OptimizerStep) -> _Waiting:
        known = self._waiting.get(id(step.optimizer))
        size = sum(len(group["params"]) for group in step.optimizer.param_groups)
        if known is None or known.optimizer() is not step.optimizer:
            if known is not None:  # another optimizer lived there: what it left is kept under a number of its own
                self._waiting[-len(self._waiting)] = known
            site = self.run.facts_of(step.optimizer).site
            known = _Waiting(weakref.ref(step.optimizer), {}, {}, 0, site)
            self._waiting[id(step.optimizer)] = known
        if known.num_parameters != size:
            for parameter in step.parameters[known.num_parameters :]:
                if isinstance(parameter, Parameter) and not step.optimizer.state.get(parameter):  # else it was stepped
                    known.left[id(parameter)] = weakref.ref(parameter)
                known.shapes[id(parameter)] = tuple(parameter.shape)
            known.num_parameters = size
        return known

    def _name(self, waiting: _Waiting) -> None:
        """Once, while the model is certainly there."""
        if waiting.names:
            return
        for root in self.run.modules():
            for prefix, module in root.named_modules():
                kept = self._dicts if isinstance(module, ModuleDict) else self._lists
                if isinstance(module, (ModuleDict, ModuleList)):
                    kept.add(f"{prefix}.")
                for name, parameter in module.named_parameters(recurse=False):
                    self._all_names.setdefault(id(parameter), f"{prefix or type(root).__name__}.{name}")
        optimizer = waiting.optimizer()
        held = [] if optimizer is None else [each for group in optimizer.param_groups for each in group["params"]]
        for parameter in held:
            name = self._all_names.get(id(parameter), "")
            if id(parameter) in waiting.left:
                waiting.names[id(parameter)] = name
            elif name:
                waiting.reached.append(name)

    def at_end(self) -> Iterator[Found]:
        self._look()
        stepped = [waiting for waiting in self._waiting.values() if waiting.num_steps >= 2]
        if not stepped:
            raise NotChecked("no optimizer made two steps")
        for waiting in stepped:
            if not waiting.left or not self.run.num_backwards:
                continue
            chosen = [key for key in waiting.left if self._is_alternative(waiting.names.get(key, ""), waiting.reached)]
            cut = [key for key in waiting.left if key not in chosen]
            if cut:
                yield self._found(waiting, cut)
            if chosen:
                yield self._not_chosen(waiting, chosen)

    def _is_alternative(self, name: str, reached: list[str]) -> bool:
        """Whether a twin in the same ModuleDict was reached, or one earlier in the same ModuleList.

        What cuts a chain cuts everything before it, so that this is no cut.
        """
        for found in _PLACE.finditer(name):
            before, key, after = name[: found.start()], found[1], name[found.end() :]
            twins = [each[len(before) : len(each) - len(after)] for each in reached
                     if each.startswith(before) and each.endswith(after)]  # fmt: skip
            if before in self._dicts and any("." not in twin for twin in twins):
                return True
            if before in self._lists and any(twin.isdigit() and int(twin) < int(key) for twin in twins):
                return True
        return False

    def _found(self, waiting: _Waiting, cut: list[int]) -> Found:
        loose = bool(waiting.names) and not any(waiting.names.get(key) for key in cut)
        why = (
            "they are in no module any more: they were replaced after the optimizer was made"
            if loose else
            f"they are unused, or cut off by detach(), item(), no_grad() or argmax(){waiting.frontier}"
        )  # fmt: skip
        return Found(
            message=f"{_described(waiting, cut)} of the {waiting.num_parameters} parameters that {_of(waiting)} holds "
            f"never got a gradient in {waiting.num_steps} steps: {why}. They stay as they were initialised.",
            fix="make the optimizer after the model is complete" if loose else
            "let the gradient through, or leave them out of the optimizer (.requires_grad_(False))",
            proof=f".grad was None at each of the {waiting.num_steps} steps",
            values={"parameters": len(cut), "held": waiting.num_parameters, "steps": waiting.num_steps},
            site=waiting.site,
        )  # fmt: skip

    def _not_chosen(self, waiting: _Waiting, chosen: list[int]) -> Found:
        return Found(
            message=f"{_described(waiting, chosen)} of the {waiting.num_parameters} parameters that {_of(waiting)} "
            f"holds got no gradient in {waiting.num_steps} steps, but others beside them did. Intended if this run "
            "never chose these heads, experts or exits.",
            fix="none, if they are alternatives; else see whether they are called",
            proof=f".grad was None at each of the {waiting.num_steps} steps",
            values={"parameters": len(chosen), "held": waiting.num_parameters, "steps": waiting.num_steps},
            severity="info", certainty="heuristic", site=waiting.site,
        )  # fmt: skip


def _of(waiting: _Waiting) -> str:
    optimizer = waiting.optimizer()
    return "the optimizer" if optimizer is None else type(optimizer).__name__


def _described(waiting: _Waiting, keys: list[int]) -> str:
    names = [waiting.names.get(key) or f"one of shape {waiting.shapes[key]}" for key in keys]
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _frontier(backward: BackwardCall, names: dict[int, str]) -> str:
    """The last operation of the graph that took a parameter and something without a graph."""
    last: tuple[Edge, Tensor] | None = None
    for edge in backward.nodes:
        if None in edge.operands or kind_of(edge) == "Embedding":
            leaf = leaf_taken_by(edge)
            last = (edge, leaf) if leaf is not None else last
    if last is None:
        return ""
    name = names.get(id(last[1])) or f"a parameter of shape {tuple(last[1].shape)}"
    return f" (the graph goes back to {last[0].name} of {name} and no further)"


_HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F

body, head = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 3)
optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(head(body(x){}), y).backward()
    optimizer.step()
"""

RULES = (
    Rule(
        slug="parameter-unreached",
        severity="warning",
        certainty="proof",
        title="an optimizer holds a parameter that never gets a gradient",
        needs=("two steps of an optimizer",),
        watcher=_Unreached,
        example=_HEAD.format(".detach()"),
        corrected=_HEAD.format(""),
    ),
)
