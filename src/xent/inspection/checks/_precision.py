"""Log-probabilities with two or three digits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from xent.inspection._nodes import Edge, edge_of, kind_of
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_HALF = (torch.bfloat16, torch.float16)
_MOST_NODES = 12  # between a loss and its log_softmax stand casts and views, no more


def _low_precision(call: LossCall) -> Iterator[Found]:
    if call.origin == "xent":  # its losses are float32 inside
        return
    dtype = _dtype_of_log_probs(call)
    if dtype not in _HALF:
        return
    name, value = str(dtype).removeprefix("torch."), _magnitude(call)
    quantum = 2.0 ** math.floor(math.log2(value)) * torch.finfo(dtype).eps if value > 0 else torch.finfo(dtype).tiny
    yield Found(
        message=f"the log-probabilities of this loss are {name}: near {value:.4g} neighbours are {quantum:.3g} "
        "apart, so that the loss, and the gradients p − y, have two or three digits.",
        fix="pass logits.float() (or use xent.cross_entropy, which keeps float32 inside)",
        proof=f"log_softmax gave {name}",
        values={"loss": value, "quantum": quantum},
    )


def _dtype_of_log_probs(call: LossCall) -> torch.dtype:
    if call.output is not None and call.output.grad_fn is not None:
        node = _log_softmax_behind(edge_of(call.output))
        if node is not None:
            return node.dtype
    if call.name == "nll_loss":
        return _dtype_of_input(call)
    if call.table is not None and call.table.log_probs is not None:
        return call.table.log_probs.dtype
    return torch.float32 if call.output is None else call.output.dtype


def _dtype_of_input(call: LossCall) -> torch.dtype:
    """Autocast widens the input of nll_loss after log_softmax has rounded it."""
    try:
        maker = call.provenance.maker
    except NotChecked:
        maker = None
    return maker.edge.dtype if maker is not None and maker.kind == "LogSoftmax" else call.input.dtype


def _log_softmax_behind(edge: Edge | None) -> Edge | None:
    for _ in range(_MOST_NODES):
        if edge is None or kind_of(edge) == "LogSoftmax":
            return edge
        edge = next((operand for operand in edge.operands if operand is not None), None)
    return None


def _magnitude(call: LossCall) -> float:
    """The loss of a row."""
    if call.output is None:
        raise NotChecked("the value of the loss is not there")
    value = float(call.values_of(call.output).double().mean())
    if call.reduction == "sum" and call.has_class_indices:
        value /= max(call.counted.numel(), 1)
    if not math.isfinite(value):
        raise NotChecked("the loss is not finite")
    return abs(value)


RULES = (
    Rule(
        slug="low-precision-loss",
        severity="warning",
        certainty="proof",
        title="log-probabilities in bfloat16 or float16",
        functions=("cross_entropy", "nll_loss"),
        at_loss_call=_low_precision,
        example="""
import torch
import torch.nn.functional as F

logits = torch.randn(32, 100, dtype=torch.bfloat16, requires_grad=True)
loss = F.cross_entropy(logits, torch.randint(100, (32,)))
loss.backward()
""",
        corrected="""
import torch
import torch.nn.functional as F

logits = torch.randn(32, 100, dtype=torch.bfloat16, requires_grad=True)
loss = F.cross_entropy(logits.float(), torch.randint(100, (32,)))
loss.backward()
""",
    ),
)
