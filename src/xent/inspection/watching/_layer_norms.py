"""Norms of gradients, moves and weights by layer, and units that got no gradient at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_foreach_norm, _foreach_sub = torch._foreach_norm, torch._foreach_sub  # pyright: ignore[reportPrivateImportUsage]
_UNITS_FIRST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # weight (units, …)


@dataclass
class Layer:
    """A module that holds parameters itself.

    Attributes:
        name: in the model.
        parameters: its own, each once in the model.
        weight, bias: where its units can be told apart; None else.
    """

    name: str
    parameters: list[Tensor] = field(default_factory=list)
    weight: Tensor | None = None
    bias: Tensor | None = None


def layers_of(models: Iterable[tuple[str, nn.Module]], others: Iterable[tuple[str, Tensor]] = ()) -> list[Layer]:
    """The layers of models, in model order, and a layer for each other parameter."""
    found, seen = [], set()
    for prefix, model in models:
        for name, module in model.named_modules():
            own: list[Tensor] = [each for each in module.parameters(recurse=False) if id(each) not in seen]
            if own:
                seen.update(map(id, own))
                layer = Layer(".".join(part for part in (prefix, name) if part) or type(model).__name__, own)
                if isinstance(module, _UNITS_FIRST):
                    layer.weight, layer.bias = module.weight, module.bias
                found.append(layer)
    found += [Layer(name, [parameter]) for name, parameter in others if id(parameter) not in seen]
    return found


class LayerNorms:
    """One step's norms: taken before it, compared after it."""

    def __init__(self, layers: list[Layer], parameters: set[int], scale: float) -> None:
        """Of the layers' parameters that are in `parameters` (ids): those of the optimizer that steps."""
        self._layers = layers
        self._owner, self._parameters = [], []
        for number, layer in enumerate(layers):
            for parameter in layer.parameters:
                if id(parameter) in parameters and parameter.grad is not None:
                    self._owner.append(number)
                    self._parameters.append(parameter)
        gradients = [each.grad for each in self._parameters]
        self._gradient = [norm / scale for norm in _norms(gradients)]
        self._weight = _norms([each.detach() for each in self._parameters])
        self._dead = [_dead(layer) for layer in layers]
        self._before = [each.detach().clone() for each in self._parameters]

    def after(self) -> list[dict[str, Any]]:
        """The layers as the records have them."""
        if not self._parameters:
            return []
        moves = _foreach_sub([each.detach() for each in self._parameters], self._before)
        self._before.clear()
        update = self._by_layer(_norms(list(moves)))
        gradient, weight = self._by_layer(self._gradient), self._by_layer(self._weight)
        return [
            {
                "name": layer.name, "gradient_norm": gradient[number], "update_norm": update[number],
                "weight_norm": weight[number],
                "update_ratio": update[number] / weight[number] if weight[number] else None,
                "dead_fraction": self._dead[number],
            }
            for number, layer in enumerate(self._layers) if number in gradient
        ]  # fmt: skip

    def _by_layer(self, norms: list[float]) -> dict[int, float]:
        squares: dict[int, list[float]] = {}
        for owner, norm in zip(self._owner, norms, strict=True):
            squares.setdefault(owner, []).append(norm)
        return {owner: math.hypot(*some) for owner, some in squares.items()}


def _norms(tensors: list[Any]) -> list[float]:
    dense = [each.coalesce().values() if each.is_sparse else each for each in tensors]
    real = [torch.view_as_real(each) if each.is_complex() else each for each in dense]
    if not real:
        return []
    if len({(each.device, each.dtype) for each in real}) == 1 and real[0].dtype in (torch.float32, torch.float64):
        return torch.stack(_foreach_norm(real)).tolist()
    return [float(torch.linalg.vector_norm(each, dtype=torch.float64)) for each in real]


def _dead(layer: Layer) -> float | None:
    """Share of a layer's units whose weights and bias all got a gradient of exactly 0."""
    weight, bias = layer.weight, layer.bias
    if weight is None or weight.grad is None or weight.grad.is_sparse:
        return None
    alive = (weight.grad != 0).flatten(1).any(1)
    if bias is not None and bias.grad is not None:
        alive = alive | (bias.grad != 0)
    return 1.0 - float(alive.float().mean())
