"""Model, optimizer and generator as one flat dict of tensors, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xent.errors import RunError

_MODEL, _OPTIMIZER, _GENERATOR = "model.", "optimizer.", "generator"


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """Everything that decides the next step, by name: `model.NAME`, `optimizer.PARAMETER.NAME`, `generator`."""
    moments = {
        f"{_OPTIMIZER}{parameter}.{name}": value
        for parameter, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    weights = {_MODEL + name: value for name, value in model.state_dict().items()}
    return {**weights, **moments, _GENERATOR: generator.get_state()}


def load_state_tensors(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Put model, optimizer and generator where `state_tensors` found them.

    Raises:
        RunError: the tensors are not those of such a model and optimizer.
    """
    try:
        model.load_state_dict(_under(_MODEL, tensors))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(tensors)})
        generator.set_state(tensors[_GENERATOR].clone())
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunError(
            f"the checkpoint does not fit the run's config.json ({str(error).splitlines()[0]})",
            "both must be of one run",
            "restore the file that was changed, or start a new run",
        ) from error


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(_OPTIMIZER, tensors).items():
        parameter, _, name = key.partition(".")
        moments.setdefault(int(parameter), {})[name] = value.clone()  # memory of its own, aligned as torch aligns it
    return moments


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
