"""A loss that stays at guessing while the logits do not look at the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xent.inspection._nodes import kind_of
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import leaf_taken_by, saved
from xent.inspection.examination._run import Run, described

_STEPS = 40  # before which a model may still be at its beginning; calls 50, 100 and 200 of a line are looked at
_LOOKS = 3  # sampled calls in a row, the last ones of the line
_SPREAD = 0.05  # of ln p between rows: probabilities differ by less than 5 %
_NOISE = 0.1  # relative, between the loss and the entropy of the labels of one batch
_MOST_ROWS = 512
_LOSSES = ("cross_entropy", "linear_cross_entropy", "binary_cross_entropy_with_logits")


@dataclass
class _Look:
    step: int
    loss: float
    prior: float
    spread: float
    guessing: float

    @property
    def is_stuck(self) -> bool:
        near = abs(self.loss - self.prior) <= _NOISE * max(self.prior, 0.3) or (
            abs(self.loss - self.guessing) <= _NOISE / 2 * self.guessing
        )
        return near and self.spread <= _SPREAD and self.prior > 0


@dataclass
class _Line:
    site: CallSite | None
    looks: list[_Look] = field(default_factory=list)
    dead: str = ""


class _StuckAtPrior(Watcher):
    """The sampled calls of every line that computes losses to train on, from the 40th step on."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines: dict[CallSite | None, _Line] = {}
        self._due: _Line | None = None

    def at_loss_call(self, call: LossCall) -> None:
        if call.output is None or not call.output.requires_grad or self.run.num_steps < _STEPS:
            return
        if call.name not in _LOSSES:
            return
        line = self._lines.setdefault(call.site, _Line(call.site))
        look = _binary_look(call) if call.is_binary else _look(call)
        if look is not None:
            look.step = self.run.num_steps
            line.looks.append(look)
            self._due = line if look.is_stuck else None

    def at_backward(self, backward: BackwardCall) -> None:
        if backward.sampled and not backward.is_grad and self._due is not None:
            self._due.dead, self._due = _dead_layers(backward, self.run), None

    def at_end(self) -> Iterator[Found]:
        if len(self.run.optimizers) > 1:
            raise NotChecked("several optimizers: two models that keep each other at guessing are no mistake")
        lines = [line for line in self._lines.values() if len(line.looks) >= _LOOKS]
        if not lines:
            raise NotChecked(f"no line computed losses long enough (beyond step {_STEPS}, {_LOOKS} looks)")
        for line in lines:
            if all(look.is_stuck for look in line.looks[-_LOOKS:]):
                yield _found(line)


def _look(call: LossCall) -> _Look | None:
    if not call.has_class_indices:
        return None
    log_probs, target = call.log_prob_rows(_MOST_ROWS).double(), call.targets_of_rows(_MOST_ROWS)
    counted = target != call.ignore_index
    log_probs, target = log_probs[counted], target[counted]
    if len(target) < 4 or not bool(torch.isfinite(log_probs).all()) or int(target.min()) < 0:
        return None
    share = torch.bincount(target, minlength=call.num_classes).double() / len(target)
    loss = -float(log_probs.gather(-1, target[:, None]).mean())
    prior = -float(torch.xlogy(share, share).sum())
    return _Look(0, loss, prior, float(log_probs.std(0).mean()), math.log(call.num_classes))


def _binary_look(call: LossCall) -> _Look | None:
    logits, target = call.values_of(call.input).reshape(-1).double(), call.values_of(call.target).reshape(-1).double()
    logits, target = logits[:_MOST_ROWS], target[:_MOST_ROWS]
    if len(target) < 4 or len(target) != len(logits) or not bool(torch.isfinite(logits).all()):
        return None
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    share = target.mean().clamp(0, 1)
    prior = -float(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    return _Look(0, float(loss), prior, float(logits.std()), prior or math.inf)


def _dead_layers(backward: BackwardCall, run: Run) -> str:
    relus = [edge for edge in backward.nodes if kind_of(edge) == "Relu"]
    dead = [edge for edge in relus if _gives_nothing(saved(edge, "result"))]
    if not dead:
        return ""
    names = run.parameter_names()
    weights = [leaf_taken_by(operand) for edge in dead if (operand := edge.operands[0]) is not None]
    layers = [described(weight, names) for weight in weights if weight is not None]
    behind = f" (behind {', '.join(layers[:4])}{', …' * (len(layers) > 4)})" if layers else ""
    return f" {len(dead)} of {len(relus)} ReLUs give 0 for every row{behind}: no gradient passes them."


def _gives_nothing(result: object) -> bool:
    return isinstance(result, Tensor) and result.layout == torch.strided and not bool(result.any())


def _found(line: _Line) -> Found:
    first, last = line.looks[-_LOOKS], line.looks[-1]
    return Found(
        message=f"from step {first.step} to step {last.step} the loss stayed at {last.loss:.4f}, and the entropy of "
        f"the labels is {last.prior:.4f}: the model says the same of every row (ln p differs by {last.spread:.2g} "
        "between rows), so that it knows how often each label comes and nothing of its inputs."
        f"{line.dead} Intended if the labels can't be told from the inputs.",
        fix="scale the inputs to mean 0 and standard deviation 1, look for dead or frozen layers, raise the lr",
        proof=f"the last {_LOOKS} sampled calls of this line: loss, label counts, spread of ln p over rows",
        values={"loss": last.loss, "prior": last.prior, "spread": last.spread, "step": last.step},
        site=line.site,
    )


_TEXT = """
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
torch.nn.init.constant_(model[0].bias, {})
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(64, 8)
y = (x[:, 0] > 0).long()
for _ in range(200):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

RULES = (
    Rule(
        slug="stuck-at-prior",
        severity="warning",
        certainty="heuristic",
        title="the loss stays at the entropy of the labels and the logits ignore the inputs",
        needs=(f"more than {_STEPS} steps",),
        watcher=_StuckAtPrior,
        example=_TEXT.format("-9.0"),
        corrected=_TEXT.format("0.0"),
    ),
)
