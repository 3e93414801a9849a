"""What a reported loss is divided by, and the least it can be: no mistakes, but numbers that are misread."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked


def _weighted_mean(call: LossCall) -> Iterator[Found]:
    weight = call.option("weight")
    if (
        weight is None
        or call.reduction != "mean"
        or not call.has_class_indices
        or call.option("normalizer") is not None
    ):
        return
    counted = call.counted
    count, total = counted.numel(), float(call.values_of(weight).double()[counted.long()].sum())
    if not count or not total or math.isclose(total, count, rel_tol=1e-6):
        return
    value = _value(call)
    by_rows = value * total / count
    alone = " With one row the weight cancels: it changes nothing here." if count == 1 else ""
    yield Found(
        message=f"class weights with reduction='mean' divide by the sum of the weights, {total:.4g}, not by the "
        f"{count:,} rows: the loss is {value:.4g}, and the sum over the rows by their number would be {by_rows:.4g}."
        + alone,
        fix=f"if the mean over the rows is meant: reduction='sum', then divide by {count:,}, the number of rows"
        if count > 1
        else "give the loss more rows at a time, or reduction='sum' and divide by the number of rows of a step",
        proof="the weights of the targets add up to another number than that of the rows",
        values={"loss": value, "by_rows": by_rows, "weights": total, "rows": count},
    )


def _smoothing_floor(call: LossCall) -> Iterator[Found]:
    smoothing = call.option("label_smoothing") or 0.0
    if not smoothing or not call.has_class_indices or call.option("weight") is not None:
        return
    classes = call.num_classes
    floor = _entropy_of_smoothed(smoothing, classes)
    if call.reduction == "mean":
        value, unit = _value(call), ""
    elif call.reduction == "sum" and call.counted.numel():
        value, unit = _value(call) / call.counted.numel(), " a row"
    else:
        raise NotChecked("the losses of single rows have floors of their own")
    yield Found(
        message=f"label smoothing of {smoothing:g} over {classes:,} classes keeps the loss above {floor:.4g}{unit}, "
        f"the entropy of the smoothed target: of {value:.4g} only {value - floor:.4g} can be learned away.",
        fix="subtract the floor when you report the loss, or validate without smoothing",
        proof="the least cross-entropy with a distribution is its entropy",
        values={"floor": floor, "loss": value, "distance": value - floor, "classes": classes},
    )


def _entropy_of_smoothed(smoothing: float, classes: int) -> float:
    true, other = 1 - smoothing + smoothing / classes, smoothing / classes
    rest = (classes - 1) * other * math.log(other) if classes > 1 else 0.0
    return -(true * math.log(true) if true > 0 else 0.0) - rest


def _value(call: LossCall) -> float:
    if call.output is None or call.output.numel() != 1:
        raise NotChecked("the value of the loss is not there")
    value = float(call.values_of(call.output).to(torch.float64))
    if not math.isfinite(value):
        raise NotChecked("the loss is not finite")
    return value


RULES = (
    Rule(
        slug="weighted-mean-denominator",
        severity="info",
        certainty="proof",
        title="a mean with class weights divides by the sum of the weights",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices that can be read",),
        at_loss_call=_weighted_mean,
        example="""
import torch
import torch.nn.functional as F

logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
loss = F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 9.0]))
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
loss = F.cross_entropy(logits, labels, weight=torch.tensor([1.0, 9.0]), reduction="sum") / 4
""",
    ),
    Rule(
        slug="label-smoothing-floor",
        severity="info",
        certainty="proof",
        title="label smoothing sets a floor under the loss",
        functions=("cross_entropy", "linear_cross_entropy"),
        needs=("class indices that can be read",),
        at_loss_call=_smoothing_floor,
        example="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(8, 10), torch.randint(10, (8,))
loss = F.cross_entropy(logits, labels)
""",
    ),
)
