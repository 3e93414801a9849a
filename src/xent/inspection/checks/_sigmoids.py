"""A sigmoid where logits belong, and logits where a sigmoid belongs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from xent.inspection.checks._class_dims import has_tensors, not_run
from xent.inspection.checks._layers import may_mix_probabilities, raw_layer
from xent.inspection.checks._normalised_dims import sums_to_one_somewhere
from xent.inspection.checks._rule import Rule
from xent.inspection.checks._softmaxes import looks_like_probabilities
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_FEWEST = 8  # values from which "all between 0 and 1" says something: of normal logits it has a chance of 2e-4
_FEWEST_SPREAD = 32
_ROUNDING = 1e-3  # beyond 0 or 1: probabilities that were added up, no logits


def _made_by_sigmoid(call: LossCall) -> str | None:
    """Words if a sigmoid made the input, "" if something else did, None if there is no graph to ask."""
    try:
        made = call.provenance
    except NotChecked:
        return None
    if made.maker is None or made.is_hidden:
        return None
    if not made.made_by("Sigmoid") or made.edited_in_place or made.scale != 1:
        return ""
    return f"{made.maker.name} made the input"


def _sigmoid_before_cross_entropy(call: LossCall) -> Iterator[Found]:
    proof = _made_by_sigmoid(call)
    suspected = proof is None and _looks_squashed(call)
    if not proof and not suspected:
        return
    classes = call.num_classes
    floor = math.log1p((classes - 1) / math.e)
    innocent = "; logits that happen to lie there are the innocent explanation" if suspected else ""
    yield Found(
        message=f"the outputs of a sigmoid are passed to {call.name} as logits: they lie between 0 and 1, so that with "
        f"{classes:,} classes the loss cannot fall below {floor:.4g}{innocent}.",
        fix="pass the logits as they are: leave out the sigmoid",
        proof=proof or "all logits lie between 0 and 1, on both sides of ½",
        values={"classes": classes, "floor": floor},
        certainty="heuristic" if suspected else "proof",
        severity="warning" if suspected else None,
    )


def _looks_squashed(call: LossCall) -> bool:
    rows = call.rows(512)
    if rows.numel() < _FEWEST or rows.shape[-1] < 2 or not rows.is_floating_point() or looks_like_probabilities(rows):
        return False
    low, high = _reach(rows)
    return 0 < low < 0.5 < high < 1 and not sums_to_one_somewhere(call.values_of(call.input))  # softmax-wrong-dim


def _reach(values: Tensor) -> tuple[float, float]:
    low, high = values.aminmax()
    return float(low), float(high)


def _sigmoid_twice(call: LossCall) -> Iterator[Found]:
    proof = _made_by_sigmoid(call)
    by_values = proof is None and _fills_the_unit_interval(call)
    if not proof and not by_values:
        return
    target = _elements(call, call.target)
    floor, share = _floor_of_two(target), float(target.double().mean()) if target.numel() else math.nan
    weighted = call.option("weight") is not None or call.option("pos_weight") is not None
    known = math.isfinite(floor) and not weighted and bool((target >= 0).all() and (target <= 1).all())
    yield Found(
        message="sigmoid is applied before binary_cross_entropy_with_logits, which applies it itself: no probability "
        "can leave 0.5 … 0.7311"
        + (f", and with {share:.3g} of the targets 1 the mean loss cannot fall below {floor:.4g}." if known else "."),
        fix="pass the logits as they are: leave out the sigmoid (keep it for what you show)",
        proof=proof or "all inputs lie between 0 and 1 and fill that interval",
        values={"floor": floor, "share_of_ones": share} if known else {},
        certainty="signature" if by_values else "proof",
    )


def _fills_the_unit_interval(call: LossCall) -> bool:
    """Whether all values lie in (0, 1) and reach both of its ends: logits that do are hardly to be had."""
    values = _elements(call, call.input)
    if values.numel() < _FEWEST_SPREAD or not values.is_floating_point():
        return False
    low, high = _reach(values)
    return 0 < low < 0.1 and 0.9 < high < 1


def _elements(call: LossCall, tensor: Tensor) -> Tensor:
    """At most 2¹⁶ elements, evenly spread."""
    flat = call.values_of(tensor).reshape(-1)
    return flat[:: max(1, flat.numel() >> 16)]


def _floor_of_two(target: Tensor) -> float:
    """The mean loss of the best inputs between 0 and 1."""
    if not target.numel():
        return math.nan
    wide = target.double()
    best = torch.logit(wide.clamp(0, 1)).clamp(0, 1)
    return float(F.binary_cross_entropy_with_logits(best, wide))


def _logits_into_bce(call: LossCall) -> Iterator[Found]:
    """Torch let it pass: no value left [0, 1], this time."""
    if not_run(call):
        yield from _outside(call)
        return
    layer = raw_layer(call.provenance)
    if not layer or may_mix_probabilities(call.provenance):
        return
    low, high = _reach(_elements(call, call.input))
    yield Found(
        message="the raw outputs of a layer are passed to binary_cross_entropy, which takes probabilities. In this "
        f"call they go from {low:.4g} to {high:.4g}; as soon as one leaves 0 … 1 torch raises.",
        fix="use binary_cross_entropy_with_logits on them, or apply a sigmoid",
        proof=f"{layer} made the input, with no sigmoid after it",
        values={"min": low, "max": high},
    )


def _outside(call: LossCall) -> Iterator[Found]:
    if not has_tensors(call) or call.input.shape != call.target.shape:
        return
    values = call.values_of(call.input)
    if not values.numel() or not values.is_floating_point():
        return
    outside = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    count = int(outside.sum())
    if not count:
        return
    finite = values[~values.isnan()]
    low, high = _reach(finite)
    yield Found(
        message=f"{count:,} of {values.numel():,} inputs of binary_cross_entropy are no probabilities: they go from "
        f"{low:.4g} to {high:.4g}. They look like logits.",
        fix="use binary_cross_entropy_with_logits (BCEWithLogitsLoss) on them, or apply a sigmoid",
        proof="inputs < 0 or > 1",
        values={"outside": count, "min": low, "max": high},
    )


_HEAD = """
import torch
import torch.nn.functional as F

"""
_CLASSES = _HEAD + "model = torch.nn.Linear(8, 10)\nx, y = torch.randn(32, 8), torch.randint(10, (32,))\n"
_BINARY = _HEAD + "model = torch.nn.Linear(8, 1)\nx, y = torch.randn(32, 8), torch.randint(2, (32, 1)).float()\n"

RULES = (
    Rule(
        slug="sigmoid-before-cross-entropy",
        severity="error",
        certainty="proof",
        title="sigmoid output passed to cross_entropy as logits",
        functions=("cross_entropy",),
        needs=("a graph, or values that can be read",),
        at_loss_call=_sigmoid_before_cross_entropy,
        example=_CLASSES + "loss = F.cross_entropy(model(x).sigmoid(), y)\nloss.backward()\n",
        corrected=_CLASSES + "loss = F.cross_entropy(model(x), y)\nloss.backward()\n",
    ),
    Rule(
        slug="sigmoid-twice",
        severity="error",
        certainty="proof",
        title="sigmoid output passed to binary_cross_entropy_with_logits",
        functions=("binary_cross_entropy_with_logits",),
        needs=("a graph, or values that can be read",),
        at_loss_call=_sigmoid_twice,
        example=_BINARY + "loss = F.binary_cross_entropy_with_logits(model(x).sigmoid(), y)\nloss.backward()\n",
        corrected=_BINARY + "loss = F.binary_cross_entropy_with_logits(model(x), y)\nloss.backward()\n",
    ),
    Rule(
        slug="logits-into-bce",
        severity="error",
        certainty="proof",
        title="logits passed to binary_cross_entropy",
        functions=("binary_cross_entropy",),
        needs=("a graph, or values that can be read",),
        at_loss_call=_logits_into_bce,
        at_error=_outside,
        before_call=_outside,
        example=_BINARY + "loss = F.binary_cross_entropy(model(x), y)\n",
        corrected=_BINARY + "loss = F.binary_cross_entropy(model(x).sigmoid(), y)\nloss.backward()\n",
    ),
)
