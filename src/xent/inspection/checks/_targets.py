"""Class indices that can't be what they should be, beside what torch raises for them; rows that all do not count."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xent.inspection.checks._class_dims import has_tensors, not_run, rows_shape
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_INDICES = (torch.int64, torch.uint8, torch.int32, torch.int16, torch.int8)


def _if_not_run(call: LossCall) -> Iterator[Found]:
    """On a CPU torch judges every target itself; only what it was not given is left."""
    if not_run(call):
        yield from _class_index_out_of_range(call)


def _class_index_out_of_range(call: LossCall) -> Iterator[Found]:
    if not has_tensors(call) or (call.name == "cross_entropy" and not call.has_class_indices):
        return
    if call.name != "linear_cross_entropy" and tuple(call.target.shape) != rows_shape(call):
        return  # target-dtype-or-shape, classes-not-dim-1: nobody knows which dim has the classes
    classes = call.num_classes
    if classes == 0:
        return
    target = call.values_of(call.target)
    if target.dtype not in _INDICES:
        raise NotChecked("the targets are no class indices")
    outside = (target != call.ignore_index) & ((target < 0) | (target >= classes))
    if not bool(outside.any()):
        return
    counted, wrong = target[target != call.ignore_index], target[outside]
    low, high = int(counted.min()), int(counted.max())
    first = outside.reshape(-1).nonzero()[0].item()
    off_by_one = low == 1 and high == classes
    yield Found(
        message=f"{wrong.numel():,} of {target.numel():,} targets name a class that is not there (the first at "
        f"position {first}, {int(wrong[0])}): the targets go from {low} to {high}, but the {classes:,} "
        + (f"classes of the logits are 0 to {classes - 1}" if classes > 1 else "class of the logits is 0")
        + ("; they count from 1." if off_by_one else "."),
        fix="subtract 1 from the targets" if off_by_one else _range_fix(wrong, high, classes),
        proof="target < 0 or ≥ C",
        values={"classes": classes, "min": low, "max": high, "rows": wrong.numel(), "first": first},
    )


def _range_fix(wrong: Tensor, high: int, classes: int) -> str:
    least, most = int(wrong.min()), int(wrong.max())
    if classes == 1:
        return f"give the last layer {high + 1} outputs, or use binary_cross_entropy_with_logits for yes or no"
    if least == most and (least < 0 or wrong.numel() > 1):
        return f"pass ignore_index={least} if {least} marks what must not count (padding)" + (
            "" if least < 0 else f"; else give the last layer at least {high + 1} outputs"
        )
    return f"give the last layer at least {high + 1} outputs, or set ignore_index for targets that must not count"


def _all_ignored(call: LossCall) -> Iterator[Found]:
    if call.reduction != "mean" or (call.output is None and call.origin == "torch" and call.error is not None):
        return
    if not _may_be_nan(call):
        return
    counted, weight = call.counted, call.option("weight")
    if weight is not None:
        weight = call.values_of(weight)
        if bool((weight[counted.long()] != 0).any()):
            return
    elif counted.numel():
        return
    rows = call.target.numel()
    yield Found(
        message=_why_none(call, rows, counted.numel())
        + ": the mean of nothing is NaN, and one such step puts NaN into "
        "every parameter.",
        fix="leave such a batch out, or divide the sum by max(count, 1): reduction='sum'",
        proof="the total weight of the rows is 0",
        values={"rows": rows, "ignored": rows - counted.numel()},
    )


def _may_be_nan(call: LossCall) -> bool:
    """Whether the loss is NaN, or not known."""
    if call.output is None or call.output.numel() != 1:
        return True
    value = call.values_of(call.output).item()
    return value != value


def _why_none(call: LossCall, rows: int, counted: int) -> str:
    if rows == 0:
        return "there are no rows"
    if counted:
        return f"no row counts: the classes of the {counted:,} targets have weight 0"
    return f"no row counts: all {rows:,} targets are ignore_index={call.ignore_index}"


RULES = (
    Rule(
        slug="class-index-out-of-range",
        severity="error",
        certainty="proof",
        title="a target that is no class",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices that can be read",),
        at_loss_call=_if_not_run,
        at_error=_class_index_out_of_range,
        before_call=_class_index_out_of_range,
        example="""
import torch
import torch.nn.functional as F

logits = torch.randn(4, 3)
labels = torch.tensor([1, 2, 3, 1])
F.cross_entropy(logits, labels)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits = torch.randn(4, 3)
labels = torch.tensor([1, 2, 3, 1])
F.cross_entropy(logits, labels - 1)
""",
    ),
    Rule(
        slug="all-ignored",
        severity="warning",
        certainty="proof",
        title="no row counts: the mean is NaN",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices that can be read",),
        at_loss_call=_all_ignored,
        example="""
import torch
import torch.nn.functional as F

logits = torch.randn(4, 3)
F.cross_entropy(logits, torch.full((4,), -100))
""",
        corrected="""
import torch
import torch.nn.functional as F

logits = torch.randn(4, 3)
F.cross_entropy(logits, torch.tensor([-100, 0, 2, -100]))
""",
    ),
)
