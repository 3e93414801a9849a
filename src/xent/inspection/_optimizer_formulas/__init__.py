"""The published formulas of torch's optimizers, one file per family, each giving back the bits of the step."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from xent.inspection._optimizer_formulas import adagrad, adam, adamax, nadam, radam, rmsprop, sgd
from xent.inspection._optimizer_formulas.formula import Recomputed, Stage, Taken

__all__ = ["FORMULAS", "Formula", "Recomputed", "Stage", "Taken", "formula_of"]


@dataclass(frozen=True)
class Formula:
    """An optimizer whose step can be made again.

    Attributes:
        name: of torch's class.
        equation: one line.
        recompute: makes a parameter's step again.
    """

    name: str
    equation: str
    recompute: Callable[[Taken], Recomputed]


FORMULAS: dict[type[Optimizer], Formula] = {
    cls: Formula(cls.__name__, family.EQUATION, family.recompute)
    for cls, family in (
        (torch.optim.SGD, sgd),
        (torch.optim.AdamW, adam),
        (torch.optim.Adam, adam),
        (torch.optim.RMSprop, rmsprop),
        (torch.optim.Adagrad, adagrad),
        (torch.optim.NAdam, nadam),
        (torch.optim.RAdam, radam),
        (torch.optim.Adamax, adamax),
    )
}


def formula_of(optimizer: Optimizer) -> Formula | str:
    """The formula of an optimizer, or why there is none: only classes that run torch's own `step` have one."""
    kind = type(optimizer)
    for base in kind.__mro__:
        if base in FORMULAS:
            if all(_same(kind, base, name) for name in ("step", "_init_group")):
                return FORMULAS[base]
            return f"{kind.__name__} has a step of its own, not {base.__name__}'s"
    return f"the formula of {kind.__name__} is not known"


def _same(kind: type, base: type, name: str) -> bool:
    # torch wraps `step` anew for each class that is constructed first; what is wrapped stays the same function
    return inspect.unwrap(getattr(kind, name)) is inspect.unwrap(getattr(base, name))
