"""Log-probabilities where logits belong, and logits or probabilities where log-probabilities belong."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xent.inspection.checks._layers import raw_layer
from xent.inspection.checks._rule import Rule
from xent.inspection.checks._softmaxes import looks_like_probabilities
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Certainty, Found, NotChecked
from xent.inspection.examination._provenance import Provenance, saved_dim

_MAY_LEAVE_ROWS = frozenset(["Gather", "IndexSelect", "Index", "MaskedSelect", "Slice", "Expand"])
_IN_LOGS = 1e-2  # |logsumexp| of a row of log-probabilities in float32; an epsilon inside the log moves it by C·ε
_IN_LOGS_HALF = 0.2  # of bfloat16 and float16, whose log-probabilities are off by 2⁻⁸ of themselves


def _log_softmax_twice(call: LossCall) -> Iterator[Found]:
    made = call.provenance
    if not made.made_by("LogSoftmax") or made.edited_in_place or made.scale != 1 or made.maker is None:
        return
    if made.maker_dim(call.class_dim) != saved_dim(made.maker.edge):
        return  # softmax-wrong-dim
    if _rows_may_have_changed(made, call):
        return
    yield Found(
        message=f"log_softmax is applied before {call.name}, which applies it itself; the second does nothing, since "
        f"the log-sum-exp of each row of {call.num_classes:,} log-probabilities is 0: redundant, harmless.",
        fix="pass the logits, or use nll_loss",
        proof=f"{made.maker.name} over the classes made the input",
        values={"classes": call.num_classes},
    )


def _rows_may_have_changed(made: Provenance, call: LossCall) -> bool:
    """Whether something between picked classes, so that rows need not be normalised any more."""
    if not any(step.kind in _MAY_LEAVE_ROWS for step in made.steps):
        return False
    return not _is_normalised(call.rows(512))


def _log_sums(rows: Tensor) -> Tensor:
    found = rows.double().logsumexp(-1)
    return found[found.isfinite()]


def _is_normalised(rows: Tensor) -> bool:
    slack = _IN_LOGS_HALF if rows.element_size() < 4 else _IN_LOGS
    return bool((_log_sums(rows).abs() <= slack).all())


def _nll_without_log_probs(call: LossCall) -> Iterator[Found]:
    rows = call.rows(512)
    if rows.numel() == 0 or not rows.is_floating_point() or _is_normalised(rows):
        return
    made_by, certainty = _what_made_it(call, rows)
    if not made_by:
        return
    if looks_like_probabilities(rows):
        yield _probabilities(call, made_by, certainty)
        return
    sums = _log_sums(rows).exp()
    low, high = float(sums.min()), float(sums.max())
    yield Found(
        message="nll_loss takes log-probabilities, whose exponentials sum to 1 in each row; here they sum to "
        f"{low:.4g} … {high:.4g}. The loss is minus the logit of the target{_here(call)} and can fall below 0 without "
        "end.",
        fix="use cross_entropy, or pass log_softmax of the logits over the classes",
        proof=f"{made_by}; the exponentials of a row do not sum to 1",
        values={"least_sum": low, "greatest_sum": high, **_loss_values(call)},
        certainty=certainty,
    )


def _probabilities(call: LossCall, made_by: str, certainty: Certainty) -> Found:
    return Found(
        message="nll_loss takes log-probabilities, but was given probabilities: the loss is −p of the target"
        f"{_here(call)}, lies between −1 and 0, and its gradient vanishes where p is small.",
        fix="use cross_entropy on the logits, or log_softmax in place of softmax",
        proof=f"{made_by}; every row is ≥ 0 and sums to 1",
        values={"classes": call.num_classes, **_loss_values(call)},
        certainty=certainty,
    )


def _what_made_it(call: LossCall, rows: Tensor) -> tuple[str, Certainty]:
    """How it is known that these are no log-probabilities; "" if they may be something that was meant.

    Weighted log-probabilities (a focal loss: (1 − p)^γ · ln p) are ≤ 0, and so are log-sigmoids.
    """
    try:
        made = call.provenance
    except NotChecked:
        made = None
    if made is not None and made.maker is not None:
        if made.made_by("Softmax") and made.scale == 1 and not made.edited_in_place:
            return f"{made.maker.name} made the input", "proof"
        layer = raw_layer(made)
        return (f"{layer} made the input, with no log_softmax after it", "proof") if layer else ("", "proof")
    if looks_like_probabilities(rows) or bool((rows > 1e-3).any()):
        return "logarithms of probabilities are ≤ 0", "signature"
    return "", "signature"


def _loss_values(call: LossCall) -> dict[str, float]:
    if call.output is None or call.output.numel() != 1:
        return {}
    value = float(call.values_of(call.output))
    return {"loss": value} if torch.isfinite(torch.tensor(value)) else {}


def _here(call: LossCall) -> str:
    value = _loss_values(call).get("loss")
    return "" if value is None else f" ({value:.4g} here)"


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
"""

RULES = (
    Rule(
        slug="log-softmax-twice",
        severity="info",
        certainty="proof",
        title="log_softmax output passed to cross_entropy",
        functions=("cross_entropy",),
        needs=("a graph",),
        at_loss_call=_log_softmax_twice,
        example=_HEAD + "loss = F.cross_entropy(model(x).log_softmax(dim=1), y)\nloss.backward()\n",
        corrected=_HEAD + "loss = F.nll_loss(model(x).log_softmax(dim=1), y)\nloss.backward()\n",
    ),
    Rule(
        slug="nll-without-log-probs",
        severity="error",
        certainty="proof",
        title="logits or probabilities passed to nll_loss",
        functions=("nll_loss",),
        needs=("values that can be read",),
        at_loss_call=_nll_without_log_probs,
        example=_HEAD + "loss = F.nll_loss(model(x), y)\nloss.backward()\n",
        corrected=_HEAD + "loss = F.nll_loss(model(x).log_softmax(dim=1), y)\nloss.backward()\n",
    ),
)
