"""What is watched: models, optimizers, and the layers that their parameters belong to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from xent.errors import DtypeError, OptionError
from xent.functional._sharded_tensors import is_sharded
from xent.inspection._watched_parameters import check_shape, optimizers_of
from xent.inspection.watching._layer_norms import Layer, LayerNorms, layers_of


class Subjects:
    """Models and optimizers of a run.

    Attributes:
        models: whose forward passes are timed.
        optimizers: whose steps count.
    """

    def __init__(self, models: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> None:
        self.models, self.optimizers = list(models), list(optimizers)

    @cached_property
    def layers(self) -> list[Layer]:
        """All layers, in model order."""
        return self._layers()

    def _layers(self) -> list[Layer]:
        inner = [_inner(model) for model in self.models]
        prefixes = [""] if len(inner) == 1 else [f"{type(model).__name__}{n}" for n, model in enumerate(inner)]
        return layers_of(zip(prefixes, inner, strict=True), self._unnamed())

    def _unnamed(self) -> Iterable[tuple[str, Tensor]]:
        for number, optimizer in enumerate(self.optimizers):
            for place, group in enumerate(optimizer.param_groups):
                for index, parameter in enumerate(group["params"]):
                    yield f"optimizer{number or ''}.groups[{place}][{index}]", parameter

    @property
    def num_parameters(self) -> int:
        """Entries of all parameters."""
        return sum(each.numel() for layer in self.layers for each in layer.parameters if not is_lazy(each))

    @property
    def are_sharded(self) -> bool:
        """Whether some parameter is spread over processes, as FSDP2 and tensor parallelism do."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return is_sharded(*(parameter for group in groups for parameter in group["params"]))

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """Every parameter with its name, once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for number, model in enumerate(self.models):
            prefix = "" if len(self.models) == 1 else f"{type(_inner(model)).__name__}{number}."
            for name, parameter in _inner(model).named_parameters():
                found.setdefault(id(parameter), (prefix + name, parameter))
        for name, parameter in self._unnamed():
            found.setdefault(id(parameter), (name, parameter))
        return [(name, parameter) for name, parameter in found.values() if not is_lazy(parameter)]

    def norms_of(self, optimizer: Optimizer) -> LayerNorms:
        """Norms of what an optimizer is about to step."""
        ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        scale = getattr(optimizer, "grad_scale", None)  # a fused kernel unscales by itself
        return LayerNorms(self.layers, ids, 1.0 if scale is None else float(scale))


def subjects_of(model: Any, optimizer: Any) -> Subjects:
    """What a caller named.

    Raises:
        DtypeError: something that is no model or no optimizer.
        OptionError: there is no optimizer.
    """
    models = list(model) if isinstance(model, list | tuple) else [] if model is None else [model]
    for each in models:
        if not isinstance(each, nn.Module):
            raise DtypeError(f"model is {type(each).__name__}", "a run is watched for torch modules",
                             "pass the model, a list of models, or None")  # fmt: skip
    optimizers = optimizers_of(optimizer)
    if not optimizers:
        raise OptionError("there is no optimizer", "steps are counted by an optimizer's", "pass the optimizer")
    for name, parameter in (pair for model in models for pair in model.named_parameters()):
        check_shape(name, parameter)
    return Subjects(models, optimizers)


def _inner(model: nn.Module) -> nn.Module:
    """The module whose names the user knows: without what compiling and data parallelism put around it."""
    while True:
        held = vars(model).get("_modules", {})
        wraps = len(held) == 1 and not vars(model)["_parameters"]  # one with weights of its own is part of the model
        around = held.get("_orig_mod") or (held.get("module") if wraps else None)
        if around is None:
            return model
        model = around
