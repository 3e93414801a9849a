"""The Kullback–Leibler divergence given the wrong things."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xent.inspection.checks._rule import Rule
from xent.inspection.checks._softmaxes import looks_like_probabilities
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import Step

_RAW = ("Addmm", "Mm", "Bmm", "Linear")  # what a last layer leaves behind: logits


def _misuse(call: LossCall) -> Iterator[Found]:
    yield from _input_not_in_logs(call)
    if call.reduction == "mean" and len(call.shape) > 1 and call.shape[-1] > 1:
        yield _mean_over_elements(call)


def _mean_over_elements(call: LossCall) -> Found:
    elements, rows = math.prod(call.shape), call.shape[0]
    factor = elements // rows
    return Found(
        message=f"kl_div with reduction='mean' divides by all {elements:,} elements, not by the {rows:,} rows: the "
        f"divergence and its gradient are {factor:,} times too small.",
        fix="reduction='batchmean'",
        proof=f"input of shape {tuple(call.shape)} and reduction='mean'",
        values={"factor": factor, "rows": rows, "elements": elements},
    )


def _input_not_in_logs(call: LossCall) -> Iterator[Found]:
    kind, proof, certainty = _what_is_passed(call)
    if kind:
        yield Found(
            message=f"kl_div takes log-probabilities as its input and is given {kind}: the result is no divergence, "
            "can be negative, and its gradient leads elsewhere.",
            fix="pass log_softmax(logits, dim=-1) as the input (and log_target=True if the target is in logs too)",
            proof=proof,
            certainty="proof" if certainty == "proof" else "signature",
        )


def _maker(call: LossCall) -> Step | None:
    """None without a graph: then the values are asked."""
    try:
        return call.provenance.maker
    except NotChecked:
        return None


def _what_is_passed(call: LossCall) -> tuple[str, str, str]:
    maker = _maker(call)
    if maker is not None and maker.kind == "Softmax":
        return "probabilities", f"{maker.name} made the input", "proof"
    rows = call.rows(256)
    if not rows.numel() or rows.shape[-1] < 2:
        return "", "", ""
    if looks_like_probabilities(rows):
        return "probabilities", "every row of the input is ≥ 0 and sums to 1", "signature"
    far = (rows.double().logsumexp(-1).abs() > 0.1).double().mean()
    if maker is not None and maker.kind in _RAW and far > 0.9:
        return "logits", f"{maker.name} made the input, and its rows do not sum to 1 in exp", "signature"
    return "", "", ""


RULES = (
    Rule(
        slug="kl-div-misuse",
        severity="warning",
        certainty="proof",
        title="kl_div over elements instead of rows, or of what is no log-probability",
        functions=("kl_div",),
        at_loss_call=_misuse,
        example="""
import torch
import torch.nn.functional as F

teacher, student = torch.randn(16, 20), torch.randn(16, 20, requires_grad=True)
loss = F.kl_div(student.softmax(1), teacher.softmax(1), reduction="batchmean")
loss.backward()
""",
        corrected="""
import torch
import torch.nn.functional as F

teacher, student = torch.randn(16, 20), torch.randn(16, 20, requires_grad=True)
loss = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
loss.backward()
""",
    ),
)
