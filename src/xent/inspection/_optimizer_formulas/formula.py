"""What every optimizer's formula is made of: the numbers at the start of a step, its stages, and what it came to.

A formula is written with torch's operations in the order in which `torch.optim` publishes them, in the dtype of the
parameter, so that it comes to the same bits. A `fused` kernel computes half parameters in float32, rounds once at the
end, and contracts a·b + c where the compiler likes: its step comes to the same number within a few roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xent.problem import HALF
from xent.report._numbers import MINUS, factor


@dataclass(frozen=True)
class Taken:
    """A parameter at the start of the optimizer's step.

    Attributes:
        value: the parameter, θ.
        gradient: as the step got it: clipped, unscaled.
        state: the optimizer's state of this parameter before the step; {} at its first.
        options: its parameter group.
        route: "single", "foreach" or "fused": which of torch's implementations ran.
    """

    value: Tensor
    gradient: Tensor
    state: Mapping[str, Any]
    options: Mapping[str, Any]
    route: str = "single"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the step is made again in."""
        return torch.float32 if self.route == "fused" and self.value.dtype in HALF else self.value.dtype

    def scaled(self, tensor: Tensor, by: Any) -> Tensor:
        """The tensor times a number; `torch._foreach_mul_` rounds the number to the dtype first, for halves on CPU."""
        if self.route == "foreach" and tensor.dtype in HALF and tensor.is_cpu:
            by = torch.as_tensor(by, dtype=tensor.dtype)
        return tensor * by

    def option(self, name: str) -> Any:
        """An option; one that is a tensor as torch computes with it."""
        return self.plain(self.options[name])

    def plain(self, value: Any) -> Any:
        """A tensor as a scalar tensor without a graph; as a number where a fused kernel reads it."""
        if not isinstance(value, Tensor):
            return value
        return value.item() if self.route == "fused" else value.detach().squeeze()

    def held(self, name: str) -> Tensor:
        """A tensor of the state in the dtype of the computation; zeros where the state is still empty."""
        value = self.state.get(name)
        return torch.zeros_like(self.value, dtype=self.dtype) if value is None else value.to(self.dtype)

    @property
    def steps_before(self) -> float | None:
        """How many steps the parameter has had; None where the state does not count them."""
        if not self.state:
            return 0.0
        return float(self.state["step"]) if "step" in self.state else None

    @property
    def is_capturable(self) -> bool:
        """Whether the step's scalars are tensors on the device, and rounded as such."""
        return bool(self.options.get("capturable"))

    @property
    def is_differentiable(self) -> bool:
        """Whether a graph is made through the step."""
        return bool(self.options.get("differentiable"))

    @property
    def time(self) -> Any:
        """The number of this step, counted from 1; a tensor where scalars are."""
        return self.time_as_tensor if self.is_capturable else (self.steps_before or 0.0) + 1

    @property
    def time_as_tensor(self) -> Tensor:
        """The number of this step in float32."""
        step = self.state.get("step")
        return torch.zeros((), device=self.value.device) + 1 if step is None else step + 1


@dataclass(frozen=True)
class Stage:
    """One line of the formula.

    Attributes:
        name: "m", "√v̂ + ε", …
        formula: with this step's numbers: "0.9·m + 0.1·g".
        value: what it came to, for every entry.
    """

    name: str
    formula: str
    value: Tensor


@dataclass
class Recomputed:
    """A step made again.

    Attributes:
        after: the parameter after it, in its own dtype.
        stages: the lines of the formula, in order.
        parts: makes the causes that the update is the sum of, in float64: this gradient, earlier steps, weight decay.
    """

    after: Tensor
    stages: tuple[Stage, ...]
    parts: Callable[[], dict[str, Tensor]]


@dataclass
class Account:
    """The stages as they are made."""

    taken: Taken
    stages: list[Stage] = field(default_factory=list)

    def add(self, name: str, formula: str, value: Tensor) -> Tensor:
        """Note a stage; nothing may write into its value afterwards."""
        self.stages.append(Stage(name, formula, value))
        return value

    def begin(self) -> tuple[Tensor, Tensor]:
        """θ and g; −g where the step maximizes."""
        theta, g = self.taken.value.to(self.taken.dtype), self.taken.gradient.to(self.taken.dtype)
        return theta, self.add("g", f"{MINUS}gradient (maximize)", -g) if self.taken.options.get("maximize") else g

    def decayed(self) -> tuple[Tensor, Tensor]:
        """θ and g of Adam's family after weight decay, which is part of the one or of the other."""
        theta, g = self.begin()
        lr, decay = self.taken.option("lr"), self.taken.option("weight_decay")
        if self.taken.options.get("decoupled_weight_decay"):
            return self.shrunk(theta, lr, decay), g
        return theta, self.coupled(g, theta, decay)

    def coupled(self, g: Tensor, theta: Tensor, decay: Any) -> Tensor:
        """Weight decay that is added to the gradient."""
        if not used(decay):
            return g
        decayed = g.add(theta, alpha=decay)  # pyright: ignore[reportArgumentType]  (a scalar tensor is a number to it)
        return self.add("g + λθ", f"g + {words(decay)}·θ", decayed)

    def shrunk(self, theta: Tensor, lr: Any, decay: Any) -> Tensor:
        """Weight decay that shrinks the parameter itself."""
        if not used(decay):
            return theta
        return self.add(
            "θ shrunk", f"(1 {MINUS} {words(lr)}·{words(decay)})·θ", self.taken.scaled(theta, 1 - lr * decay)
        )

    def end(self, after: Tensor, parts: Callable[[], dict[str, Tensor]]) -> Recomputed:
        """The result."""
        return Recomputed(after.to(self.taken.value.dtype), tuple(self.stages), parts)


def used(decay: Any) -> bool:
    """Whether there is any weight decay."""
    return isinstance(decay, Tensor) or decay != 0


def words(value: Any) -> str:
    """An option as somebody would type it."""
    return factor(float(value))


def linear_parts(
    taken: Taken, minus_scale: Tensor | float, *, new: float, old: float, held: Tensor, decay: float = 0.0
) -> dict[str, Tensor]:
    """Causes of −scale · (new·(g + λθ) + old·held), each with its share, in float64."""
    sign = -1.0 if taken.options.get("maximize") else 1.0
    scale = minus_scale.double() if isinstance(minus_scale, Tensor) else minus_scale
    parts = {"this gradient": scale * (new * sign * taken.gradient.double())}
    if old and taken.state and taken.steps_before != 0:
        parts["earlier steps"] = scale * (old * held.double())
    if decay:
        parts["weight decay"] = scale * (new * decay * taken.value.double())
    return parts


def decayed_parts(taken: Taken, minus_scale: Tensor | float, *, new: float, old: float) -> dict[str, Tensor]:
    """`linear_parts` of Adam's family, with the weight decay of `Account.decayed`."""
    lr, decay, held = taken.option("lr"), taken.option("weight_decay"), taken.held("exp_avg")
    if not used(decay) or not taken.options.get("decoupled_weight_decay"):
        coupled = float(decay) if used(decay) else 0.0
        return linear_parts(taken, minus_scale, new=new, old=old, held=held, decay=coupled)
    causes = linear_parts(taken, minus_scale, new=new, old=old, held=held)
    causes["weight decay"] = -float(lr) * float(decay) * taken.value.double()
    return causes
