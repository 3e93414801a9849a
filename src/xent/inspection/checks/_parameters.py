"""Parameters that reach the loss and that no optimizer moves: not registered, or not given to one."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection.checks._held_outside import Held, holdings_of
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, OptimizerStep
from xent.inspection.examination._finding import Certainty, Found, NotChecked
from xent.inspection.examination._run import Run

_LOOKED_AT = 4096  # entries of a parameter whose sum tells whether it was changed


class _Held:
    """Which tensors an optimizer holds or held; ids are used again when a tensor is gone, so each has a reference."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._references: dict[int, weakref.ref[Tensor]] = {}
        self._sizes: dict[int, int] = {}
        self._seen: set[int] = set()  # facts of optimizers

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer steps, or is looked at."""
        size = sum(len(group["params"]) for group in optimizer.param_groups)
        self._seen.add(id(self._run.facts_of(optimizer)))
        if self._sizes.get(id(optimizer)) != size or optimizer not in self:
            self._sizes[id(optimizer)] = size
            for group in optimizer.param_groups:
                for each in group["params"]:
                    self._references[id(each)] = weakref.ref(each)

    @property
    def missed_one(self) -> bool:
        """Whether an optimizer made steps and was gone before it was looked at."""
        return any(facts.num_steps and facts.reference() is None and id(facts) not in self._seen
                   for facts in self._run.optimizers)  # fmt: skip

    def note_all(self) -> None:
        """Those of the run that live."""
        for optimizer in self._run.live_optimizers():
            self.note(optimizer)

    def __contains__(self, what: Tensor | torch.optim.Optimizer) -> bool:
        if isinstance(what, torch.optim.Optimizer):
            first = next((each for group in what.param_groups for each in group["params"]), None)
            return first is None or first in self
        reference = self._references.get(id(what))
        return reference is not None and reference() is what

    def held_once(self, reference: weakref.ref[Tensor], key: int) -> bool:
        """The same of a tensor that may be gone."""
        known, now = self._references.get(key), reference()
        return known is not None and (now is None or known() is now)


@dataclass(frozen=True)
class _Waiting:
    """Leaves of a backward before which no optimizer was known."""

    references: list[weakref.ref[Tensor]]
    site: CallSite | None
    step: int


class _Unheld(Watcher):
    """Leaves behind the sampled backwards that no optimizer holds; the process is searched only if there are any.

    An optimizer that was made before the doctor is known from its first step on: until one is known, leaves wait.
    """

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._held = _Held(run)
        self._known: dict[int, weakref.ref[Tensor]] = {}
        self._inputs: set[int] = set()
        self._saw_backward = False
        self._waiting: _Waiting | None = None

    def at_backward(self, backward: BackwardCall) -> None:
        if backward.is_grad:  # what a gradient is asked of by name is an input, unless it is a Parameter
            self._inputs.update(id(each) for each in backward.inputs or ())
            return
        if not backward.sampled:
            return
        self._saw_backward = True
        self._held.note_all()
        self.wait_no_longer()
        unheld = [leaf for leaf in backward.parameters if leaf not in self._held]
        fresh = [leaf for leaf in unheld if self._is_fresh(leaf)]
        self.again(unheld, backward)
        if fresh and not self.run.optimizers:
            self._waiting = _Waiting([weakref.ref(leaf) for leaf in fresh], backward.site, self.run.num_steps)
        elif fresh:
            self.first_seen(fresh, backward.site, self.run.num_steps)

    def at_step(self, step: OptimizerStep) -> None:
        self._held.note(step.optimizer)
        self.wait_no_longer()

    def wait_no_longer(self) -> bool:
        """Judge the leaves that wait; whether they are all there, since one that is gone can't be looked up."""
        if self._waiting is None:
            return True
        waiting, self._waiting = self._waiting, None
        leaves = [leaf for reference in waiting.references if (leaf := reference()) is not None]
        fresh = [leaf for leaf in leaves if leaf not in self._held]
        if fresh:
            self.first_seen(fresh, waiting.site, waiting.step)
        return len(leaves) == len(waiting.references)

    def _is_fresh(self, leaf: Tensor) -> bool:
        known = self._known.get(id(leaf))
        if known is not None and known() is leaf:
            return False
        self._known[id(leaf)] = weakref.ref(leaf)
        return True

    def first_seen(self, fresh: list[Tensor], site: CallSite | None, step: int) -> None:
        """Leaves that no optimizer holds now, and where and after how many steps a backward came to them."""

    def again(self, unheld: list[Tensor], backward: BackwardCall) -> None:
        """All such leaves of a backward."""

    def site_of_optimizer(self) -> CallSite | None:
        """Where the first optimizer was made."""
        return next((facts.site for facts in self.run.optimizers if facts.site is not None), None)


def _in_order(leaves: list[Tensor], names: Mapping[int, object]) -> list[Tensor]:
    """As the model lists them, not as backward() comes to them."""
    places = {key: place for place, key in enumerate(names)}
    return sorted(leaves, key=lambda leaf: places.get(id(leaf), len(places)))


@dataclass(frozen=True)
class _Loose:
    reference: weakref.ref[Tensor]
    key: int
    held: Held
    numel: int
    num_registered: int
    site: CallSite | None


class _NotRegistered(_Unheld):
    """A leaf that a module holds in a list, a dict or an attribute, and that no model registers."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._loose: list[_Loose] = []
        self._confirmed: set[int] = set()

    def first_seen(self, fresh: list[Tensor], site: CallSite | None, step: int) -> None:
        holdings = holdings_of(self.run)
        for leaf in _in_order(fresh, holdings.outside):
            held = holdings.outside.get(id(leaf))
            if held is not None:
                self._loose.append(_Loose(weakref.ref(leaf), id(leaf), held, leaf.numel(), len(holdings.registered),
                                          site))  # fmt: skip

    def again(self, unheld: list[Tensor], backward: BackwardCall) -> None:
        if self.run.num_steps:
            self._confirmed.update(id(leaf) for leaf in unheld)

    def at_end(self) -> Iterator[Found]:
        self._held.note_all()
        all_there = self.wait_no_longer()
        if not self._saw_backward:
            raise NotChecked("backward() was not called")
        loose = [each for each in self._loose if self._is_mistake(each)]
        if not loose and not all_there:
            raise NotChecked("the parameters were gone before they could be looked up")
        if loose and self._held.missed_one:
            raise NotChecked("an optimizer came and went between the steps that are looked at")
        for attribute in dict.fromkeys((each.held.attribute, each.held.alone) for each in loose):
            yield self._found([each for each in loose if (each.held.attribute, each.held.alone) == attribute])

    def _is_mistake(self, loose: _Loose) -> bool:
        if self._held.held_once(loose.reference, loose.key):
            return False
        if loose.held.is_parameter:
            return True
        # a plain tensor: an input that requires a gradient, unless it is at a later step too and was no input of grad()
        return loose.key in self._confirmed and loose.key not in self._inputs

    def _found(self, loose: list[_Loose]) -> Found:
        first, count = loose[0], len(loose)
        numbers = sum(each.numel for each in loose)
        others = f" and {count - 1} more ({numbers:,} numbers)" if count > 1 else f" ({numbers:,} numbers)"
        where = f"a plain {first.held.container}" if first.held.container else "a plain tensor, not an nn.Parameter"
        lies = f"lies in {where}" if first.held.container else f"is {where}"
        optimizer = self.site_of_optimizer()
        fate = "no optimizer was given them and they" if optimizer else "they"
        return Found(
            message=f"{first.held.path}{others} reach the loss and are not in parameters(): "
            f"`{first.held.attribute}` {lies}, which nn.Module does not register; {fate} are missing from "
            f"parameters(), state_dict(), .to() and zero_grad().{self._innocent(first.held)}",
            fix=_FIX.get(first.held.container, "wrap the tensor: nn.Parameter(…)"),
            proof=f"AccumulateGrad behind the loss holds {first.held.path}, and no module of the process registers it",
            values={"parameters": count, "numbers": numbers},
            certainty=self._certainty(first.held),
            site=optimizer or first.site,
        )

    @classmethod
    def _innocent(cls, held: Held) -> str:
        if cls._certainty(held) == "proof":
            return ""
        what = f"the {held.container} hides it on purpose" if held.is_parameter else "it is an input, and no weight"
        return f" Intended if {what}."

    @staticmethod
    def _certainty(held: Held) -> Certainty:
        return "heuristic" if held.alone or not held.is_parameter else "proof"


_FIX = {
    "list": "use nn.ModuleList([...]) (nn.ParameterList for bare parameters)",
    "tuple": "use nn.ModuleList([...]) (nn.ParameterList for bare parameters)",
    "dict": "use nn.ModuleDict({...}) (nn.ParameterDict for bare parameters)",
    "set": "use nn.ModuleList([...])",
    "deque": "use nn.ModuleList([...])",
}


@dataclass
class _Unmoved:
    """A registered parameter that reaches the loss: what it was when first seen, and whether it was seen again."""

    reference: weakref.ref[Tensor]
    key: int
    name: str
    numel: int
    is_training: bool
    fingerprint: tuple[int, float]
    step: int
    confirmed: bool = False
    moved: bool = False


class _NotInOptimizer(_Unheld):
    """A registered parameter that reaches the loss beside those that an optimizer moves, and that nothing moves."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._unmoved: dict[int, _Unmoved] = {}

    def first_seen(self, fresh: list[Tensor], site: CallSite | None, step: int) -> None:
        holdings = holdings_of(self.run)
        for leaf in _in_order(fresh, holdings.registered):
            registered = holdings.registered.get(id(leaf))
            if registered is not None and id(leaf) not in self._inputs:
                name, training = registered
                self._unmoved[id(leaf)] = _Unmoved(weakref.ref(leaf), id(leaf), name, leaf.numel(), training,
                                                   _fingerprint(leaf), step)  # fmt: skip

    def again(self, unheld: list[Tensor], backward: BackwardCall) -> None:
        unmoved = [(self._unmoved[id(leaf)], leaf) for leaf in unheld if id(leaf) in self._unmoved]
        later = [(each, leaf) for each, leaf in unmoved if each.step < self.run.num_steps]
        beside = len(unheld) < len(backward.parameters) and any(
            isinstance(leaf, torch.nn.Parameter) and leaf in self._held for leaf in backward.parameters
        )
        for each, leaf in later:
            each.confirmed = each.confirmed or beside
            each.moved = each.moved or _fingerprint(leaf) != each.fingerprint

    def at_end(self) -> Iterable[Found] | None:
        self._held.note_all()
        self.wait_no_longer()
        if not any(facts.num_steps for facts in self.run.optimizers):
            raise NotChecked("no optimizer made a step")
        if not self._saw_backward or self.run.num_steps < 2:
            raise NotChecked("the run was shorter than two steps")
        left = [
            each for each in self._unmoved.values()
            if each.confirmed and not each.moved and not self._held.held_once(each.reference, each.key)
        ]  # fmt: skip
        if left and self._held.missed_one:
            raise NotChecked("an optimizer came and went between the steps that are looked at")
        groups = ([each for each in left if each.is_training], [each for each in left if not each.is_training])
        return [self._found(group) for group in groups if group]

    def _found(self, left: list[_Unmoved]) -> Found:
        names, numbers = [each.name for each in left], sum(each.numel for each in left)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        frozen = "" if left[0].is_training else " Its module is in eval mode."
        return Found(
            message=f"{shown} ({numbers:,} numbers) reach the loss and require a gradient, and no optimizer ever held "
            f"them: backward() computes their gradients and no step moves them.{frozen} Intended if they are frozen.",
            fix="give them to the optimizer (make it after the model is complete), or call .requires_grad_(False)",
            proof="AccumulateGrad behind the loss holds them, no optimizer's param_groups do, and their values stayed",
            values={"parameters": len(left), "numbers": numbers},
            severity=None if left[0].is_training else "info",
            site=self.site_of_optimizer(),
        )


def _fingerprint(leaf: Tensor) -> tuple[int, float]:
    """Where it lies, and the sum of some entries."""
    try:
        flat = leaf.detach().reshape(-1)
        every = max(1, flat.numel() // _LOOKED_AT)
        return leaf.data_ptr(), float(flat[::every][:_LOOKED_AT].double().sum())
    except (RuntimeError, NotImplementedError):  # a subclass, or no storage
        return 0, 0.0


_HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = {layers}
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{then}x, y = torch.randn(32, 16), torch.randint(3, (32,))
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
_LIST = "[nn.Linear(16, 16), nn.Linear(16, 16)]"
_REGISTERED = f"nn.ModuleList({_LIST})"

RULES = (
    Rule(
        slug="parameter-not-registered",
        severity="error",
        certainty="proof",
        title="a parameter that reaches the loss is not in model.parameters()",
        needs=("a backward()",),
        watcher=_NotRegistered,
        example=_HEAD.format(layers=_LIST, then=""),
        corrected=_HEAD.format(layers=_REGISTERED, then=""),
    ),
    Rule(
        slug="parameter-not-in-optimizer",
        severity="warning",
        certainty="proof",
        title="a parameter that reaches the loss is in no optimizer",
        needs=("two steps of an optimizer",),
        watcher=_NotInOptimizer,
        example=_HEAD.format(layers=_REGISTERED, then="model.head = nn.Linear(16, 3)\n"),
        corrected=_HEAD.format(layers=_REGISTERED, then="").replace(
            "optimizer = ", "model.head = nn.Linear(16, 3)\noptimizer = "
        ),
    ),
)
