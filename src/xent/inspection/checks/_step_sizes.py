"""Steps that do not do what their gradient promised, where the same batch is seen again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from torch import Tensor

from xent.inspection._nodes import Edge, kind_of
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.checks._shares import is_clear
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, GradientEvent, OptimizerStep
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import saved
from xent.inspection.examination._run import Run
from xent.inspection.examination._session import is_sampled

_MOST_NODES = 1000
_MOST_ELEMENTS = 1 << 22  # of parameters that are copied for the time of a step: 16 MiB in float32
_OVERSHOT = -0.5  # measured / predicted: the loss rose by half of what it should have fallen
_ENOUGH = 2  # such steps
_THROWN = 2.0  # or one, if the loss is then so many times what it ever was before
_RANDOM = ("Dropout", "Rrelu", "Bernoulli", "Attention")

Data = tuple[tuple[weakref.ref[Tensor], int, tuple[int, ...], int], ...]


@dataclass
class _Batch:
    """What the loss of one step was computed from, its value, and what the step should do to it."""

    data: Data
    value: float
    step: int  # of the run, steps made before
    leaves: list[weakref.ref[Tensor]]
    site: CallSite | None
    gradients: list[tuple[int, int] | None] = field(default_factory=list)  # where each lies, and its version
    predicted: float = math.nan
    lr: float = math.nan


@dataclass(frozen=True)
class _Step:
    number: int
    before: float
    after: float
    predicted: float
    lr: float
    site: CallSite | None

    @property
    def ratio(self) -> float:
        return (self.after - self.before) / self.predicted


class _StepOvershoots(Watcher):
    """Two steps in a row on one batch: the second loss says what the first step did. No forward pass is made for it."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._backwards = 0
        self._now: _Batch | None = None
        self._last: _Batch | None = None
        self._before: list[tuple[Tensor, Tensor]] = []  # for the time of a step
        self._steps: list[_Step] = []
        self._scaled = self._told = False

    def at_wake(self) -> None:
        self._backwards, self._now, self._last = 0, None, None

    def at_backward(self, backward: BackwardCall) -> Iterator[Found] | None:
        if backward.is_grad:
            return None
        self._backwards += 1
        self._now, last = None, self._last
        made = self.run.num_steps
        if self._told or self._scaled or self._backwards > 1 or not (is_sampled(made + 1) or is_sampled(max(made, 1))):
            return None
        self._now = _batch(backward, made)
        if self._now is None or last is None or last.step != made - 1 or not _is_same(last.data, self._now.data):
            return None
        if last.predicted < 0 and math.isfinite(last.value):
            self._steps.append(_Step(made, last.value, self._now.value, last.predicted, last.lr, last.site))
        return self._judged()

    def after_backward(self, backward: BackwardCall) -> None:
        if self._now is not None and not backward.is_grad:
            self._now.gradients = _states(self._now.leaves)

    def at_gradients(self, event: GradientEvent) -> None:
        self._scaled = self._scaled or event.kind in ("unscale", "scaler_step")

    def at_step(self, step: OptimizerStep) -> None:
        self._before, self._last = [], None
        now = self._now
        if now is None or not is_sampled(self.run.num_steps) or not _is_whole(now, step.parameters):
            return
        moved = [each for each in step.parameters if each.grad is not None]
        if sum(each.numel() for each in moved) <= _MOST_ELEMENTS:
            self._before = [(each, each.detach().clone()) for each in moved]

    def after_step(self, step: OptimizerStep) -> None:
        before, now = self._before, self._now
        self._before, self._now, self._backwards = [], None, 0
        if not before or now is None:
            return
        changes = [(each.grad, each.detach() - old) for each, old in before]
        now.predicted = sum(float((g.double() * d.double()).sum()) for g, d in changes if g is not None)
        now.lr = float(step.optimizer.param_groups[0].get("lr", math.nan))
        now.site = step.site
        self._last = now

    def _judged(self) -> Iterator[Found] | None:
        wrong = [each for each in self._steps if each.ratio < _OVERSHOT or not math.isfinite(each.after)]
        first, last = self._steps[0], self._steps[-1]
        thrown = last.ratio < _OVERSHOT and last.after > _THROWN * max(first.before, last.before, 0)
        if len(wrong) < _ENOUGH and not thrown:
            return None
        self._told = True
        return iter([_found(wrong[0], len(wrong), len(self._steps))])

    def at_end(self) -> None:
        if not self._steps:
            raise NotChecked("no batch was seen twice in a row")


def _found(step: _Step, wrong: int, seen: int) -> Found:
    return Found(
        message=f"step {step.number} with lr {step.lr:g} should have changed the loss by {step.predicted:.4g} by its "
        f"gradient, and on the same batch it went from {step.before:.4f} to {step.after:.4f} ({step.ratio:.2f} times "
        f"as much): it jumped over the valley, as {wrong} of the {seen} steps did that could be measured.",
        fix="a smaller lr, or inputs that are scaled to mean 0 and standard deviation 1",
        proof="g·Δθ of the step against the next loss on the same tensors",
        values={"predicted": step.predicted, "measured": step.after - step.before, "lr": step.lr, "step": step.number},
        site=step.site,
    )


def _batch(backward: BackwardCall, made: int) -> _Batch | None:
    roots = backward.roots
    if len(roots) != 1 or roots[0].numel() != 1 or backward.inputs is not None or backward.create_graph:
        return None
    if any(gradient is not None for gradient in backward.gradients) or not is_clear(backward.parameters):
        return None
    data = _data_of(backward.nodes)
    if data is None:
        return None
    leaves = [weakref.ref(each) for each in backward.parameters]
    return _Batch(data, float(roots[0].detach()), made, leaves, backward.site)


def _data_of(nodes: list[Edge]) -> Data | None:
    """All tensors that the graph saved and that have no graph themselves: inputs and targets. None where chance takes
    part, or where something can't be seen.
    """
    if len(nodes) > _MOST_NODES:
        return None
    found: dict[int, tuple[weakref.ref[Tensor], int, tuple[int, ...], int]] = {}
    for edge in nodes:
        if edge.function is not None or any(word in kind_of(edge) for word in _RANDOM):
            return None
        for name in _saved_names(type(edge.node)):
            value = saved(edge, name)
            for tensor in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(tensor, Tensor) and not tensor.requires_grad and tensor.ndim:
                    base = tensor if tensor._base is None else tensor._base
                    found[id(tensor)] = (
                        weakref.ref(base),
                        base._version,
                        tuple(tensor.shape),
                        int(tensor.storage_offset()),
                    )
    return tuple(found.values()) if len(found) > 1 else None


@lru_cache(maxsize=512)
def _saved_names(kind: type) -> tuple[str, ...]:
    """What nodes of a kind save, their own results left out."""
    names = (name.removeprefix("_saved_") for name in dir(kind) if name.startswith("_saved_"))
    return tuple(name for name in names if not name.startswith("result"))


def _is_same(one: Data, other: Data) -> bool:
    """The same tensors, not written to since: an address alone is used again by the next batch."""
    return len(one) == len(other) and all(
        a[0]() is not None and a[0]() is b[0]() and a[1:] == b[1:] for a, b in zip(one, other, strict=True)
    )


def _states(leaves: list[weakref.ref[Tensor]]) -> list[tuple[int, int] | None]:
    """Whether gradients were changed between backward() and the step (clipped, say) is seen by this."""
    gradients = [None if (leaf := reference()) is None else leaf.grad for reference in leaves]
    return [None if each is None or each.is_sparse else (each.data_ptr(), each._version) for each in gradients]


def _is_whole(batch: _Batch, parameters: list[Tensor]) -> bool:
    """Whether the optimizer holds all leaves of the loss, with the gradients of this loss as backward() left them."""
    held, states = {id(each) for each in parameters}, _states(batch.leaves)
    return states == batch.gradients and None not in states and all(id(leaf()) in held for leaf in batch.leaves)


_TEXT = """
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr={})
x, y = torch.randn(64, 8), torch.arange(64) % 3
for _ in range(12):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

RULES = (
    Rule(
        slug="step-overshoots",
        severity="warning",
        certainty="signature",
        title="steps raise the loss of the batch they were made from",
        needs=("a batch that is seen twice in a row",),
        watcher=_StepOvershoots,
        example=_TEXT.format("50.0"),
        corrected=_TEXT.format("0.1"),
    ),
)
