"""Model, optimizer and generator as one flat dict of tensors, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xent.errors import RunError

MODEL, OPTIMIZER, GENERATOR = "model.", "optimizer.", "generator"


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> dict[str, Tensor]:
    """Everything that decides the next step, by name: `model.NAME`, `optimizer.PARAMETER.NAME`, `generator`."""
    moments: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    of_optimizer = {
        f"{OPTIMIZER}{parameter}.{name}": value
        for parameter, values in moments.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    of_model = {MODEL + name: value for name, value in model.state_dict().items()}
    return {**of_model, **of_optimizer, GENERATOR: generator.get_state()}


def load_state_tensors(
    tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> None:
    """Put model, optimizer and generator where `state_tensors` found them.

    Raises:
        RunError: the tensors are not those of such a model and optimizer.
    """
    try:
        model.load_state_dict(under(MODEL, tensors))
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(tensors)})
        generator.set_state(tensors[GENERATOR].clone())
    except (RuntimeError, KeyError, ValueError) as error:
        raise RunError(
            f"the checkpoint does not fit the run's config.json ({str(error).splitlines()[0]})",
            "both must be of one run",
            "restore the file that was changed, or start a new run",
        ) from error


def _moments(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in under(OPTIMIZER, tensors).items():
        parameter, _, name = key.partition(".")
        moments.setdefault(int(parameter), {})[name] = value.clone()  # memory of its own, aligned as torch aligns it
    return moments


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
