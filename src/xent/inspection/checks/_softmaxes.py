"""Probabilities passed where logits belong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import saved_dim

_MOST_ROWS = 512
_ROUNDING = 1e-2  # of the sum of a row of half precision, each of whose entries is off by at most 2⁻⁸ of itself
_WHICH = {"proof": ", which applies it itself", "signature": ", and it applies softmax to them"}


def _softmax_before_cross_entropy(call: LossCall) -> Iterator[Found]:
    proof = _proved_by_graph(call)
    certainty, cause = "proof", f"softmax is applied to the logits before {call.name}"
    if proof is None:
        proof, certainty, cause = _signature(call), "signature", f"probabilities are passed to {call.name} as logits"
    if proof:
        classes = call.num_classes
        floor, factor = math.log1p((classes - 1) / math.e), _shrunk(call)
        gradients = f"in this batch the gradients are {factor:.3g} times" if factor > 1 else "the gradients are"
        yield Found(
            message=f"{cause}{_WHICH[certainty]}: with {classes:,} classes the loss cannot fall below {floor:.4g}, and "
            f"{gradients} smaller than without it.",
            fix="pass the logits as they are: leave out the softmax (keep it for what you show)",
            proof=proof,
            values={"classes": classes, "floor": floor} | ({"gradient_factor": factor} if factor > 1 else {}),
            certainty=certainty,
        )


def _shrunk(call: LossCall) -> float:
    """‖∇z of the loss of z‖ / ‖∇z of that of p = softmax(z)‖: without the first softmax and with it; NaN if not known.

    A row's gradient with respect to what the loss takes for logits is (Σ t) softmax − t, where t is its target,
    smoothed and times the class weights.
    """
    if call.error is not None or call.option("row_weight") is not None or call.option("z_loss"):
        return math.nan
    try:
        p_NC, target = call.rows(_MOST_ROWS).double(), call.targets_of_rows(_MOST_ROWS)
    except NotChecked:
        return math.nan
    counted = (target != call.ignore_index) & (target >= 0) & (target < call.num_classes)
    p_NC, target = p_NC[counted], target[counted].long()
    if not bool((p_NC.sum(1) - 1).abs().le(_ROUNDING).all()):
        return math.nan  # some of the classes were cut off
    smoothing, weight = call.option("label_smoothing") or 0.0, call.option("weight")
    t_NC = torch.full_like(p_NC, smoothing / p_NC.shape[1])
    t_NC.scatter_add_(1, target[:, None], torch.full_like(p_NC[:, :1], 1 - smoothing))
    t_NC = t_NC if weight is None else t_NC * call.values_of(weight)
    total_N1 = t_NC.sum(1, keepdim=True)
    error_NC = total_N1 * p_NC.softmax(1) - t_NC
    through = p_NC * (error_NC - (p_NC * error_NC).sum(1, keepdim=True))
    with_it, without = float(through.norm()), float((total_N1 * p_NC - t_NC).norm())
    return without / with_it if with_it and math.isfinite(without / with_it) else math.nan


def _proved_by_graph(call: LossCall) -> str | None:
    """Words if it is proved, "" if the graph shows that all is well, None where the values have to be asked.

    They are where no softmax made them, since it may be written out, clamped, averaged or compiled.
    """
    try:
        made = call.provenance
    except NotChecked:
        return None
    if made.maker is None:
        return None
    if made.edited_in_place or made.scale != 1 or made.made_by("LogSoftmax"):
        return ""  # a scale, such as 1 / temperature, moves the floor
    if not made.made_by("Softmax"):
        return None if call.has_input else ""
    if made.maker_dim(call.class_dim) != saved_dim(made.maker.edge):
        return ""  # softmax-wrong-dim
    return f"{made.maker.name} over the classes made the logits"


def _signature(call: LossCall) -> str:
    rows = call.rows(_MOST_ROWS)
    if bool((rows == rows[..., :1]).all()):
        return ""  # 1/C for every class: as good a way as any to write that nothing is known
    return "every row is ≥ 0 and sums to 1" if looks_like_probabilities(rows) else ""


def looks_like_probabilities(rows: Tensor) -> bool:
    """Rows ≥ 0 that sum to 1 within rounding, and are no one-hot rows."""
    if rows.numel() == 0 or rows.shape[-1] < 2 or not rows.is_floating_point():
        return False
    wide = rows.double()
    slack = _ROUNDING if rows.element_size() < 4 else 1e-4
    sums_to_one = bool((wide.sum(-1) - 1).abs().le(slack).all())
    return bool((wide >= 0).all()) and sums_to_one and not bool((wide.amax(-1) == 1).all())


RULES = (
    Rule(
        slug="softmax-before-cross-entropy",
        severity="error",
        certainty="proof",
        title="softmax output passed to cross_entropy as logits",
        functions=("cross_entropy",),
        needs=("a graph, or values that can be read",),
        at_loss_call=_softmax_before_cross_entropy,
        example="""
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
probabilities = model(x).softmax(dim=1)
loss = F.cross_entropy(probabilities, y)
loss.backward()
""",
        corrected="""
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
logits = model(x)
loss = F.cross_entropy(logits, y)
loss.backward()
""",
    ),
)
