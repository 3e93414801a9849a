"""What is kept of an observed step: copies of parameters, gradients and state, and what happened to each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xent.inspection._gradient_changes import GradientChange
from xent.inspection._optimizer_formulas import Formula, Taken
from xent.inspection._tensor_summary import Summary


@dataclass
class ParameterRecord:
    """One parameter through the block.

    Attributes:
        name: as the model, or else the optimizer, calls it.
        shape: of the parameter.
        dtype: of the parameter.
        aliases: further names that the model has for it.
        registered: whether the model knows it; None without a model.
        trainable: `requires_grad`.
        optimizer: number of the optimizer that has it; None: none.
        group: number of its parameter group there.
        reached: whether a backward pass in the block came to it, or a gradient was there all along.
        backwards: how many passes added to its gradient in the block.
        onto_old: whether the first of them added to a gradient that was there before.
        raw: the gradient as backward left it, the scale of a GradScaler included.
        gradient: as step() got it.
        before: the parameter when step() began.
        state: the optimizer's state of it then.
        options: its group's options then.
        route: which of torch's implementations ran.
        after: the parameter when step() returned.
        steps: how many steps it took in the block; the copies are of the last.
        unstepped: the parameter in short where an optimizer has it and took no step on it.
        gradient_at_exit: "None", "zeros", "kept" or "changed".
        notes: what else happened to it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    aliases: tuple[str, ...] = ()
    registered: bool | None = True
    trainable: bool = True
    optimizer: int | None = None
    group: int | None = None
    reached: bool = False
    backwards: int = 0
    onto_old: bool = False
    raw: Tensor | None = None
    gradient: Tensor | None = None
    before: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    route: str = "single"
    after: Tensor | None = None
    steps: int = 0
    unstepped: Summary | None = None
    gradient_at_exit: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def layer(self) -> str:
        """The module that holds it."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def count(self) -> int:
        """Its entries."""
        return torch.Size(self.shape).numel()

    @property
    def taken(self) -> Taken | None:
        """What the optimizer's formula starts from; None where there was no step."""
        if self.before is None or self.gradient is None or self.after is None:
            return None
        return Taken(self.before, self.gradient, self.state, self.options, self.route)


@dataclass
class OptimizerRecord:
    """One optimizer through the block.

    Attributes:
        name: of its class.
        formula: what its step is made again with, or why it can't be.
        groups: options of each parameter group at the last step.
        steps: how many it took.
        unscaled: the scale that a GradScaler divided its gradients by; 1 without.
        skipped: steps that a GradScaler left out.
        change: what happened to the gradients between backward and step, beside unscaling.
        state_names: what its state holds for a parameter after a step: "step", "exp_avg", …
    """

    name: str
    formula: Formula | str
    groups: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    unscaled: float = 1.0
    skipped: int = 0
    change: GradientChange | None = None
    state_names: frozenset[str] = frozenset()


@dataclass
class LossRecord:
    """The losses that backward was called on in the block, or that were given.

    Attributes:
        values: each as a number; NaN where it was no scalar.
        given: whether `ledger.loss()` named it.
        unscaled: the scale that a GradScaler had multiplied them with.
        strangers: leaves that reach a loss, and that neither model nor optimizer has: their shapes.
        seen: whether a graph was walked.
        resolutions: what the dtype of each can tell apart at its size.
    """

    values: list[float] = field(default_factory=list)
    given: bool = False
    unscaled: float = 1.0
    strangers: list[tuple[int, ...]] = field(default_factory=list)
    seen: bool = False
    resolutions: list[float] = field(default_factory=list)

    def note(self, loss: Tensor) -> None:
        """Add a loss."""
        single = loss.numel() == 1
        self.values.append(float(loss.detach()) if single else float("nan"))
        is_real = single and loss.is_floating_point()
        self.resolutions.append(torch.finfo(loss.dtype).eps * abs(self.values[-1]) if is_real else 0.0)

    def forget(self, count: int) -> None:
        """Leave out the first losses: those of an earlier step."""
        del self.values[:count], self.resolutions[:count]

    @property
    def resolution(self) -> float:
        """What the dtypes of the losses can tell apart in their sum."""
        return sum(self.resolutions)

    @property
    def total(self) -> float | None:
        """Their sum, of which the gradients are the gradient; None where there is none."""
        return sum(self.values) / (1.0 if self.given else self.unscaled) if self.values else None
