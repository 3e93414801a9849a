"""A first loss that is far above guessing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import Provenance, leaf_taken_by
from xent.inspection.examination._run import Run

_ABOVE = 2.0  # nats above ln C, and times ln C: logits of standard deviation 1 give about half a nat
_LAYERS = ("Addmm", "Mm", "Linear", "Convolution", "Addmv", "Mv")
_LOSSES = ("cross_entropy", "linear_cross_entropy")
_MOST_ROWS = 2048


class _InitialLossTooHigh(Watcher):
    """The first training call of each line, before the first step."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._found: list[Found] = []
        self._looked = False

    def at_loss_call(self, call: LossCall) -> None:
        if call.number > 1 or not call.grad_enabled or call.name not in _LOSSES or call.output is None:
            return
        if self.run.num_steps or self.run.num_backwards or not call.has_class_indices:
            return
        weight = _layer_of(call)
        found = None if weight is None else _judged(call, weight)
        self._looked = self._looked or weight is not None
        if found is not None:
            self._found.append(found)

    def at_end(self) -> list[Found]:
        if not self._looked or not self.run.num_backwards:
            raise NotChecked("no first loss to train on was computed from the output of a layer")
        return self._found[:1]


def _layer_of(call: LossCall) -> Tensor | None:
    """The weight that made the logits, if it is a parameter and nothing was done to them since."""
    if call.option("logit_scale", 1.0) != 1 or call.option("softcap") is not None:
        return None
    if call.name == "cross_entropy":
        return _output_weight(call.provenance)
    weight = call.arguments["linear_weight"]
    return weight if weight.is_leaf and weight.requires_grad else None


def _output_weight(provenance: Provenance) -> Tensor | None:
    """The parameter of the layer that made the logits; None where anything scales them, as a temperature does."""
    if provenance.maker is None or any(step.kind in ("Mul", "Div", "CopySlices") for step in provenance.steps):
        return None
    return leaf_taken_by(provenance.maker.edge) if provenance.made_by(*_LAYERS) else None


def _judged(call: LossCall, weight: Tensor) -> Found | None:
    """Both the loss and what it would be with labels drawn at random are high: the logits are too large, whoever is
    right.
    """
    logits = call.rows(_MOST_ROWS).double()
    target = call.targets_of_rows(_MOST_ROWS)
    counted = target != call.ignore_index
    logits, target = logits[counted], target[counted]
    if not len(target) or not bool(torch.isfinite(logits).all()) or int(target.min()) < 0:
        return None
    guessing = math.log(call.num_classes)
    normaliser = logits.logsumexp(-1)
    loss = float((normaliser - logits.gather(-1, target[:, None])[:, 0]).mean())
    at_random = float((normaliser - logits.mean(-1)).mean())
    bound = max(guessing + _ABOVE, guessing * _ABOVE)
    if min(loss, at_random) <= bound or call.num_classes < 2:
        return None
    spread = float(logits.std(-1).mean())
    features = weight.shape[0] if weight.ndim == 2 and weight.shape[1] == call.num_classes else weight[0].numel()
    return Found(
        message=f"the first loss is {loss:.4g}, {loss / guessing:.1f} times guessing (ln {call.num_classes} = "
        f"{guessing:.4g}): the logits differ by {spread:.3g} (standard deviation) before anything is learned, so that "
        "the first steps go into shrinking them.",
        fix=f"a smaller output layer (its weights have standard deviation {float(weight.detach().std()):.2g}; "
        f"1/√{features:,} = {1 / math.sqrt(max(features, 1)):.2g}), or scaled inputs",
        proof=f"{at_random:.4g} is also the loss of labels drawn at random; a layer with a weight of shape "
        f"{tuple(weight.shape)} made the logits",
        values={"loss": loss, "guessing": guessing, "spread": spread},
        site=call.site,
    )


_TEXT = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(64, 10){}
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
x, y = torch.randn(32, 64), torch.randint(10, (32,))
for _ in range(3):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
"""

RULES = (
    Rule(
        slug="initial-loss-too-high",
        severity="warning",
        certainty="signature",
        title="the first loss is far above guessing",
        needs=("a graph that shows the layer of the logits",),
        watcher=_InitialLossTooHigh,
        example=_TEXT.format("\ntorch.nn.init.normal_(model.weight)"),
        corrected=_TEXT.format(""),
    ),
)
