"""What an unmodified program trains: its optimizers when they step, and the models that hold their parameters."""

from __future__ import annotations

import gc
import weakref

from torch import Tensor, nn
from torch.optim import Optimizer

from xent.inspection.watching._layer_norms import Layer
from xent.inspection.watching._subjects import Subjects

MOST_OPTIMIZERS = 16  # of one program; further ones step unheard


class FoundSubjects(Subjects):
    """Models and optimizers that were found; none is kept alive."""

    def __init__(self) -> None:
        self._models: list[weakref.ref[nn.Module]] = []
        self._optimizers: list[weakref.ref[Optimizer]] = []

    @property
    def models(self) -> list[nn.Module]:  # type: ignore[override]
        """Those that live."""
        return [model for reference in self._models if (model := reference()) is not None]

    @property
    def optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        """Those that live."""
        return [one for reference in self._optimizers if (one := reference()) is not None]

    @property
    def layers(self) -> list[Layer]:  # type: ignore[override]
        """Those of the models that live; looked up anew, because a layer would keep its parameters."""
        return self._layers()

    def add(self, optimizer: Optimizer) -> bool:
        """Take an optimizer in that steps for the first time, and its models; whether there was room."""
        self._models = [each for each in self._models if each() is not None]
        self._optimizers = [each for each in self._optimizers if each() is not None]
        if len(self._optimizers) >= MOST_OPTIMIZERS:
            return False
        self._optimizers.append(weakref.ref(optimizer))
        known = {id(model) for model in self.models}
        parameters = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._models += [weakref.ref(model) for model in _roots() if id(model) not in known and _has(model, parameters)]
        return True


def _roots() -> list[nn.Module]:
    """All modules of the process that belong to no other one."""
    found = [each for each in gc.get_objects() if issubclass(type(each), nn.Module) and "_modules" in vars(each)]
    inner = {id(child) for module in found for child in vars(module)["_modules"].values()}
    return [module for module in found if id(module) not in inner]


def _has(model: nn.Module, parameters: set[int]) -> bool:
    held: list[Tensor] = list(model.parameters())
    return any(id(parameter) in parameters for parameter in held)
