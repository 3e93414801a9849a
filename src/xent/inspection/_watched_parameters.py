"""Which parameters a step is about, under which names, and which optimizers have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from xent.errors import DtypeError, OptionError
from xent.inspection._step_records import ParameterRecord


@dataclass
class Watched:
    """Everything that is watched.

    Attributes:
        model: the module; None where parameters were named one by one, or not at all.
        optimizers: in order.
        parameters: each tensor beside its record, the model's first.
    """

    model: nn.Module | None
    optimizers: list[Optimizer]
    parameters: list[tuple[Tensor, ParameterRecord]] = field(default_factory=list)

    def record_of(self, parameter: Tensor) -> ParameterRecord | None:
        """The record of a tensor; None where it is not watched."""
        return self._by_id.get(id(parameter))

    def add(self, parameter: Tensor, record: ParameterRecord) -> None:
        """Watch one more."""
        self.parameters.append((parameter, record))
        self._by_id[id(parameter)] = record

    def __post_init__(self) -> None:
        self._by_id = {id(parameter): record for parameter, record in self.parameters}


def watched(model: Any, optimizer: Any) -> Watched:
    """Names and places of all parameters of a model and of optimizers."""
    if optimizer is None and (isinstance(model, Optimizer) or _is_list_of_optimizers(model)):
        model, optimizer = None, model
    found = Watched(model if isinstance(model, nn.Module) else None, optimizers_of(optimizer))
    for name, parameter in named(model):
        known = found.record_of(parameter)
        if known is not None:
            known.aliases += (name,)
            continue
        found.add(parameter, _record(name, parameter, True))
    for number, one in enumerate(found.optimizers):
        _add_optimizer(found, number, one, model is not None)
    if not found.parameters:
        raise OptionError(
            "there is no parameter to watch", "a step is about parameters", "pass a model or an optimizer"
        )
    return found


def check_shape(name: str, parameter: Tensor) -> None:
    """Refuse what a lazy layer has before its first batch.

    Raises:
        OptionError: the parameter has no shape yet.
    """
    if is_lazy(parameter):
        raise OptionError(
            f"parameter {name} has no shape yet", "a lazy layer learns it from its first batch",
            "call the model once before, on any batch: model(batch)",
        )  # fmt: skip


def _record(name: str, parameter: Tensor, registered: bool | None) -> ParameterRecord:
    check_shape(name, parameter)
    record = ParameterRecord(name, tuple(parameter.shape), parameter.dtype, registered=registered)
    record.trainable = parameter.requires_grad
    return record


def _add_optimizer(found: Watched, number: int, optimizer: Optimizer, has_model: bool) -> None:
    for place, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [
            f"{_called(found, number)}.groups[{place}][{index}]" for index in range(len(group["params"]))
        ]
        for name, parameter in zip(names, group["params"], strict=True):
            record = found.record_of(parameter)
            if record is None:
                record = _record(name, parameter, False if has_model else None)
                found.add(parameter, record)
            if record.optimizer is not None and record.optimizer != number:
                record.notes.append(f"is in optimizer {record.optimizer} and in optimizer {number}")
            record.optimizer, record.group = number, place


def _called(found: Watched, number: int) -> str:
    return f"optimizer{number}" if len(found.optimizers) > 1 else "optimizer"


def named(model: Any) -> list[tuple[str, Tensor]]:
    """(name, parameter) of everything that a model has, once for each name."""
    if model is None:
        return []
    if isinstance(model, nn.Module):
        return list(model.named_parameters(remove_duplicate=False))
    if not isinstance(model, Iterable):
        raise _not_a_model(type(model).__name__)
    pairs = list(model.items() if isinstance(model, Mapping) else model)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise _not_a_model(f"an iterable of {type(pair).__name__}")
        if not isinstance(pair[1], Tensor):
            raise _not_a_model(f"{pair[0]!r} with a {type(pair[1]).__name__}")
    return pairs


def _not_a_model(what: str) -> DtypeError:
    return DtypeError(
        f"model is {what}", "a step is watched for a module or for named parameters",
        "pass the model, model.named_parameters(), or nothing but the optimizer",
    )  # fmt: skip


def optimizers_of(optimizer: Any) -> list[Optimizer]:
    """The optimizers of one, of a list, or behind the wrapper of a training library."""
    if optimizer is None:
        return []
    several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    return [_unwrapped(one) for one in several]


def _unwrapped(optimizer: Any) -> Optimizer:
    inner = getattr(optimizer, "optimizer", None)  # accelerate and Lightning wrap torch's optimizer
    if isinstance(inner, Optimizer):
        return inner
    if isinstance(optimizer, Optimizer):
        return optimizer
    raise DtypeError(
        f"optimizer is {type(optimizer).__name__}", "a step is that of a torch.optim.Optimizer",
        "pass the optimizer, or a list of them",
    )  # fmt: skip


def _is_list_of_optimizers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Optimizer) for one in value)


def route_of(group: Mapping[str, Any], parameters: Iterable[Tensor]) -> str:
    """Which of torch's three implementations a group runs on."""
    if group.get("fused"):
        return "fused"
    if group.get("foreach") is None and not group.get("differentiable"):
        on_gpu = all(type(p) in (Tensor, nn.Parameter) and p.device.type in ("cuda", "xpu") for p in parameters)
        return "foreach" if on_gpu and torch.accelerator.is_available() else "single"
    return "foreach" if group.get("foreach") else "single"
