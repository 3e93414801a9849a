"""What is known of a run: its counts, its optimizers and models, by weak references."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch.nn import Module
from torch.optim import Optimizer

from xent.inspection.examination._batch_sizes import BatchSizes
from xent.inspection.examination._call_site import CallSite


@dataclass(eq=False)
class OptimizerFacts:
    """One optimizer of the run.

    Attributes:
        reference: gives the optimizer while it lives.
        name: of its class.
        site: where it was made, if the doctor saw that; else where it was first used.
        num_steps: how often it stepped.
    """

    reference: weakref.ref[Optimizer]
    name: str
    site: CallSite | None = None
    num_steps: int = 0


@dataclass(eq=False)
class Run:
    """One run under the doctor.

    Attributes:
        model: the model that was named, or None.
        num_calls: calls of each loss function.
        num_backwards, num_steps: of all kinds.
        optimizers: those seen, in order.
        batches: the rows of every training call, by line.
        looked_at: the ids of tensors whose in-place writes a rule wants to hear of.
    """

    model: weakref.ref[Module] | None = None
    num_calls: Counter[str] = field(default_factory=Counter)
    num_backwards: int = 0
    num_steps: int = 0
    optimizers: list[OptimizerFacts] = field(default_factory=list)
    batches: dict[CallSite, BatchSizes] = field(default_factory=dict)
    looked_at: set[int] = field(default_factory=set)
    _facts: dict[int, OptimizerFacts] = field(default_factory=dict)

    def facts_of(self, optimizer: Optimizer, site: CallSite | None = None) -> OptimizerFacts:
        """The facts of an optimizer, made when it is first seen."""
        facts = self._facts.get(id(optimizer))
        if facts is None or facts.reference() is not optimizer:
            facts = OptimizerFacts(weakref.ref(optimizer), type(optimizer).__name__, site)
            self._facts[id(optimizer)] = facts
            self.optimizers.append(facts)
        return facts

    def live_optimizers(self) -> Iterator[Optimizer]:
        """Those that are still there."""
        for facts in self.optimizers:
            optimizer = facts.reference()
            if optimizer is not None:
                yield optimizer

    def modules(self) -> list[Module]:
        """All modules of the process that belong to no other one: the models, losses and loose layers.

        Looks through every object of the process (60 ms for 300,000): once a run, not once a step.
        """
        if self.model is not None and (given := self.model()) is not None:
            return [given]
        kinds = _kinds_of_modules()
        objects = gc.get_objects()
        found: list[Module] = list(compress(objects, map(kinds.__contains__, map(type, objects))))
        del objects
        inner = {id(child) for module in found for child in vars(module).get("_modules", {}).values()}
        return [module for module in found if id(module) not in inner and "_modules" in vars(module)]

    def parameter_names(self) -> dict[int, str]:
        """Id of each registered parameter → its name ("layers.0.weight"), of every module that lives now."""
        names: dict[int, str] = {}
        for module in self.modules():
            for name, parameter in module.named_parameters():
                names.setdefault(id(parameter), name)
        return names


def _kinds_of_modules() -> set[type]:
    """`Module` and every class that inherits from it."""
    kinds, waiting = {Module}, [Module]
    while waiting:
        below = [kind for kind in type.__subclasses__(waiting.pop()) if kind not in kinds]
        kinds.update(below)
        waiting.extend(below)
    return kinds


def described(parameter: torch.Tensor, names: dict[int, str]) -> str:
    """A parameter in words: its name, or its shape."""
    return names.get(id(parameter)) or f"a parameter of shape {tuple(parameter.shape)}"
