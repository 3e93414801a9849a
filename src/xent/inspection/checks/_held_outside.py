"""What modules hold in plain lists, dicts and attributes, where `parameters()` does not look."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Module, Parameter

from xent.inspection.examination._run import Run

_OWN = frozenset(vars(Module()))  # the registry itself, hooks, flags
_DEEPEST = 3  # lists in lists in lists
_MOST_ITEMS = 10_000


@dataclass(frozen=True)
class Held:
    """A parameter that a module holds and did not register.

    Attributes:
        path: "DeepNet.hidden[0].weight".
        attribute: "hidden", of the module.
        container: "list", "dict", …; "" where a plain tensor is the attribute itself.
        alone: whether it is the only thing in its container, as those write who hide a module on purpose.
        is_parameter: an `nn.Parameter`; else a plain tensor that requires a gradient.
    """

    path: str
    attribute: str
    container: str
    alone: bool
    is_parameter: bool


@dataclass
class Holdings:
    """All parameters of the process.

    Attributes:
        registered: id → (name, whether its module is in training mode), of modules that nothing holds unregistered.
        outside: id → how it is held, of those that are registered nowhere.
    """

    registered: dict[int, tuple[str, bool]] = field(default_factory=dict)
    outside: dict[int, Held] = field(default_factory=dict)


_latest: weakref.WeakKeyDictionary[Run, tuple[int, Holdings]] = weakref.WeakKeyDictionary()


def holdings_of(run: Run) -> Holdings:
    """The parameters of the process's models; several rules that ask at one backward share one search."""
    number, holdings = _latest.get(run, (-1, None))
    if holdings is None or number != run.num_backwards:
        holdings = _sorted(run.modules())
        _latest[run] = run.num_backwards, holdings
    return holdings


def _sorted(roots: list[Module]) -> Holdings:
    """Those of some models and of what they hold."""
    holdings = Holdings()
    held_modules: set[int] = set()
    for root in roots:
        for module in root.modules():
            for what, held in _of_module(module):
                if isinstance(what, Module):
                    held_modules.add(id(what))
                    for name, parameter in what.named_parameters():
                        path = f"{held.path}.{name}"
                        holdings.outside.setdefault(id(parameter), _named(held, path, is_parameter=True))
                else:
                    holdings.outside.setdefault(id(what), held)
    for root in roots:
        if id(root) not in held_modules:
            _register(root, holdings.registered)
    for each in holdings.registered:
        holdings.outside.pop(each, None)
    return holdings


def _named(held: Held, path: str, *, is_parameter: bool) -> Held:
    return Held(path, held.attribute, held.container, held.alone, is_parameter)


def _register(root: Module, registered: dict[int, tuple[str, bool]]) -> None:
    for prefix, module in root.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix or type(root).__name__}.{name}"
            registered.setdefault(id(parameter), (full, module.training))


def _of_module(module: Module) -> Iterator[tuple[Module | Tensor, Held]]:
    """What its plain attributes hold. A module or parameter that is an attribute itself was put there past the registry
    on purpose: `Module.__setattr__` would have registered it.
    """
    for name, value in list(vars(module).items()):
        if name in _OWN:
            continue
        path = f"{type(module).__name__}.{name}"
        if _is_weight(value) and not isinstance(value, Parameter):
            yield value, Held(path, name, "", False, False)
        else:
            yield from _inside(value, path, name, 1)


def _inside(value: Any, path: str, attribute: str, depth: int) -> Iterator[tuple[Module | Tensor, Held]]:
    if type(value) is dict:
        items = [(f"{path}[{key!r}]", each) for key, each in list(value.items())[:_MOST_ITEMS]]
    elif type(value) in (list, tuple, set, deque):
        items = [(f"{path}[{place}]", each) for place, each in enumerate(list(value)[:_MOST_ITEMS])]
    else:
        return
    for inner, each in items:
        if isinstance(each, Module) or _is_weight(each):
            yield each, Held(inner, attribute, type(value).__name__, len(items) == 1, isinstance(each, Parameter))
        elif depth < _DEEPEST:
            yield from _inside(each, inner, attribute, depth + 1)


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.is_leaf
