"""Targets that can't be what they should be, beside what torch raises for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked


def _class_index_out_of_range(call: LossCall) -> Iterator[Found]:
    if call.name == "cross_entropy" and not call.has_class_indices:
        return
    classes = call.num_classes
    target = call.values_of(call.target)
    if target.dtype not in (torch.int64, torch.uint8, torch.int32):
        raise NotChecked("the targets are no class indices")
    outside = (target != call.ignore_index) & ((target < 0) | (target >= classes))
    count = int(outside.sum())
    if not count:
        return
    counted = target[target != call.ignore_index]
    low, high = int(counted.min()), int(counted.max())
    first = outside.reshape(-1).nonzero()[0].item()
    off_by_one = low == 1 and high == classes
    reach = f"the targets go from {low} to {high}, but the {classes} classes of the logits are 0 to {classes - 1}"
    yield Found(
        message=f"{count:,} of {target.numel():,} targets name a class that is not there (the first at position "
        f"{first}): {reach}" + ("; they count from 1." if off_by_one else "."),
        fix="subtract 1 from the targets" if off_by_one else
            f"give the last layer at least {high + 1} outputs, or set ignore_index for targets that must not count",
        proof="target < 0 or ≥ C",
        values={"classes": classes, "min": low, "max": high, "rows": count},
    )  # fmt: skip


RULES = (
    Rule(
        slug="class-index-out-of-range",
        severity="error",
        certainty="proof",
        title="a target that is no class",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices that can be read",),
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
)
