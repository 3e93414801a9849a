"""Targets that should be probabilities and are none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from xent.inspection.checks._class_dims import has_tensors, not_run
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._values import evenly_rows

_ROUNDING = 1e-3  # of a sum of float32 probabilities, and of smoothed targets
_ROUNDING_HALF = 2e-2
_MOST_ROWS = 4096


def _soft_target_not_distribution(call: LossCall) -> Iterator[Found]:
    if not has_tensors(call) or call.has_class_indices or call.target.shape != call.input.shape or call.num_classes < 2:
        return
    target = call.values_of(call.target)
    if target.numel() == 0:
        return
    if _sums_to_one_elsewhere(target, call.class_dim):
        return  # classes-not-dim-1
    rows = evenly_rows(target.movedim(call.class_dim, -1), _MOST_ROWS).double()
    slack = _ROUNDING_HALF if target.element_size() < 4 else _ROUNDING
    sums = rows.sum(-1)
    wrong = ((sums - 1).abs() > slack) | (rows < -slack).any(-1)
    wrong &= (rows != 0).any(-1)  # a row of zeros adds nothing: some mask rows that way
    if bool(wrong.any()):
        yield _no_distribution(call, rows, sums, wrong)


def _sums_to_one_elsewhere(target: Tensor, class_dim: int) -> bool:
    """Whether the targets of a sequence or an image are probabilities over another dim."""
    if target.ndim < 3:
        return False
    wide = target.detach()
    return bool((wide >= 0).all()) and any(
        bool(((wide.double().sum(dim) - 1).abs() <= _ROUNDING).all())
        for dim in range(1, wide.ndim)
        if dim != class_dim and wide.shape[dim] > 1
    )


def _no_distribution(call: LossCall, rows: Tensor, sums: Tensor, wrong: Tensor) -> Found:
    low, high, least = float(sums[wrong].min()), float(sums[wrong].max()), float(rows.min())
    count, first = int(wrong.sum()), int(wrong.nonzero()[0])
    negative = least < 0
    reach = f"{low:.4g} … {high:.4g}" if high - low > 1e-4 else f"{low:.4g}"
    return Found(
        message=f"{count:,} of {len(rows):,} target rows are no distribution: they sum to {reach} (row {first} to "
        f"{float(sums[first]):.4g})"
        + (f" and go down to {least:.4g}, so that the loss can fall below 0 without end." if negative else
           f"; a row counts as much as its sum, and the mean loss cannot fall below {_floor(rows, sums):.4g}."),
        fix=_fix(call, rows),
        proof="sums and signs of the target rows",
        values={"rows": count, "least_sum": low, "greatest_sum": high, "least": least, "first": first},
    )  # fmt: skip


def _floor(rows: Tensor, sums: Tensor) -> float:
    """The mean over the rows of −Σ t ln(t / Σ t): what the best logits give."""
    shares = rows / sums.clamp_min(math.ulp(0))[:, None]
    return float(-(rows * shares.clamp_min(math.ulp(0)).log()).sum(-1).mean())


def _fix(call: LossCall, rows: Tensor) -> str:
    dim = call.class_dim
    if len(call.shape) == 1:
        return "one row of logits is a vector over classes; for a batch of yes or no: binary_cross_entropy_with_logits"
    if bool((rows <= 0).all()) and bool(((rows.exp().sum(-1) - 1).abs() < _ROUNDING).all()):
        return "the targets are log-probabilities: pass target.exp()"
    if bool((rows < 0).any()):
        return f"if the targets are logits (of a teacher), pass target.softmax({dim})"
    if bool(((rows == 0) | (rows == 1)).all()):
        return ("for several labels at once use binary_cross_entropy_with_logits, or divide each row by its sum: "
                f"target / target.sum({dim}, keepdim=True)")  # fmt: skip
    return (
        f"divide each row by its sum: target / target.sum({dim}, keepdim=True); for weighted rows use reduction='none'"
    )


def _before_bce(call: LossCall) -> Iterator[Found]:
    """Only the kernel of binary_cross_entropy asserts its targets."""
    if call.name == "binary_cross_entropy":
        yield from _bce_target_outside_0_1(call)


class _Reach(NamedTuple):
    low: float
    high: float
    outside: int
    missing: int


def _bce_target_outside_0_1(call: LossCall) -> Iterator[Found]:
    if not has_tensors(call):
        return
    target = call.values_of(call.target)
    found = _reach(target)
    if found is None:
        return
    refused = call.error is not None or (not_run(call) and call.name == "binary_cross_entropy")
    if refused and (call.target.shape != call.input.shape or not target.is_floating_point()):
        return  # target-dtype-or-shape
    if not refused and call.reduction == "none":
        raise NotChecked("losses of elements are not reduced: some targets may be masked later")
    if not refused and found.missing == 0 and _has_weight_zero(call, target):
        return
    nothing = f"{found.missing:,} are NaN" if found.missing else ""
    reach = f"they go from {found.low:.4g} to {found.high:.4g}" if found.outside else ""
    bare = call.name == "binary_cross_entropy"
    yield Found(
        message=f"{found.outside + found.missing:,} of {target.numel():,} targets of {call.name} are outside 0 … 1: "
        + " and ".join(filter(None, (reach, nothing)))
        + (". Each must be a probability; torch refuses them here." if bare else
           ". Torch lets them pass, and the loss has no lower bound: it falls for ever as those logits grow."
           if found.outside else ". The loss is NaN."),
        fix=_bce_fix(found, target),
        proof="targets < 0, > 1 or NaN",
        values={"outside": found.outside + found.missing, "min": found.low, "max": found.high},
    )  # fmt: skip


def _reach(target: Tensor) -> _Reach | None:
    """None if all is well: one pass."""
    if target.numel() == 0 or target.is_complex() or str(target.dtype) == "torch.bool":
        return None
    low, high = (float(end) for end in target.aminmax())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return None
    missing = int(target.isnan().sum())
    if missing:
        there = target[~target.isnan()]
        low, high = (float(end) for end in there.aminmax()) if there.numel() else (math.nan, math.nan)
    outside = int(((target < -_ROUNDING) | (target > 1 + _ROUNDING)).sum())
    return _Reach(low, high, outside, missing)


def _has_weight_zero(call: LossCall, target: Tensor) -> bool:
    """Whether every such target is masked by a weight of 0."""
    weight = call.option("weight")
    if weight is None:
        return False
    outside = (target < -_ROUNDING) | (target > 1 + _ROUNDING)
    return not bool((outside & (call.values_of(weight) != 0)).any())


def _bce_fix(found: _Reach, target: Tensor) -> str:
    if found.missing and not found.outside:
        return "leave missing targets out (target.isnan()) before the loss"
    if found.low == -1 and found.high == 1 and bool((target.abs() == 1).all()):
        return "turn −1 and 1 into 0 and 1: (target + 1) / 2"
    if bool((target == target.round()).all()) and found.low >= 0:
        return (f"for classes 0 … {found.high:.4g} use cross_entropy with {int(found.high) + 1} outputs; for a grade "
                f"divide by {found.high:.4g}")  # fmt: skip
    return "bring them to 0 … 1, or use a regression loss"


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 3)
x, y = torch.randn(32, 8), {}
"""

RULES = (
    Rule(
        slug="soft-target-not-distribution",
        severity="error",
        certainty="proof",
        title="probability targets whose rows do not sum to 1",
        functions=("cross_entropy",),
        needs=("probability targets that can be read",),
        at_loss_call=_soft_target_not_distribution,
        example=_HEAD.format("torch.randint(2, (32, 3)).float()") + "F.cross_entropy(model(x), y).backward()\n",
        corrected=_HEAD.format("torch.randn(32, 3).softmax(1)") + "F.cross_entropy(model(x), y).backward()\n",
    ),
    Rule(
        slug="bce-target-outside-0-1",
        severity="error",
        certainty="proof",
        title="targets of a binary loss outside 0 … 1",
        functions=("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        needs=("targets that can be read",),
        at_loss_call=_bce_target_outside_0_1,
        at_error=_bce_target_outside_0_1,
        before_call=_before_bce,
        example=_HEAD.format("torch.randint(5, (32, 3)).float()")
        + "F.binary_cross_entropy_with_logits(model(x), y).backward()\n",
        corrected=_HEAD.format("torch.randint(5, (32, 3)).float() / 4")
        + "F.binary_cross_entropy_with_logits(model(x), y).backward()\n",
    ),
)
