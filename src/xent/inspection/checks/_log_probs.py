"""Log-probabilities where logits belong, and logits or probabilities where log-probabilities belong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from xent.inspection._nodes import Edge, edge_of, kind_of
from xent.inspection.checks._layers import raw_layer
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.checks._softmaxes import looks_like_probabilities
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, LossCall
from xent.inspection.examination._finding import Certainty, Found, NotChecked
from xent.inspection.examination._provenance import Provenance, nodes_behind, provenance_of_edge, saved_dim
from xent.inspection.examination._run import Run

_MARK = "xent.doctor.nll"  # in the metadata of a loss's node: its line
_MOST_LINES = 1000
_NEAR = 12  # nodes between a loss of xent and the logits
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
    """Judged at once, but for a loss of logits to whose value something may be added yet."""
    if not _waits(call):
        yield from _found_in_nll(call)


def _waits(call: LossCall) -> bool:
    return call.origin in ("torch", "xent") and call.output is not None and call.output.grad_fn is not None


class _Finished(Watcher):
    """nll_loss(x) + logsumexp(x) is the cross-entropy: a loss of logits is judged when its backward begins."""

    every_step = False

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._waiting: dict[CallSite | None, Found] = {}
        self._judged: set[CallSite | None] = set()
        self._saw = False

    def at_loss_call(self, call: LossCall) -> Iterator[Found]:
        if call.name != "nll_loss" or not _waits(call) or call.output is None or call.output.grad_fn is None:
            return
        self._saw = True
        for found in _found_in_nll(call):
            if found.certainty != "proof" or len(self._waiting) >= _MOST_LINES:
                yield found
                continue
            self._waiting[call.site] = replace(found, site=call.site)
            edge_of(call.output).node.metadata[_MARK] = call.site

    def at_backward(self, backward: BackwardCall) -> Iterator[Found]:
        if not backward.sampled or not self._waiting:
            return
        marked = [edge for edge in backward.nodes if _MARK in edge.node.metadata]
        if not marked:
            return
        added = {_made(operand) for edge in backward.nodes if kind_of(edge) in ("Logsumexp", "Exp")
                 for operand in edge.operands if operand is not None}  # fmt: skip
        for edge in marked:
            site = edge.node.metadata.pop(_MARK)
            found = self._waiting.pop(site, None)
            self._judged.add(site)
            if found is not None and not any(_made(table) in added for table in _tables(edge)):
                yield found

    def at_end(self) -> Iterator[Found]:
        if not self._saw:
            raise NotChecked("no nll_loss was called")
        for site, found in self._waiting.items():
            if site not in self._judged:
                yield _if_nothing_is_added(found)


def _tables(loss: Edge) -> list[Edge]:
    """What a loss may have been computed from: the first operand of torch's node; of xent's, what lies near."""
    if kind_of(loss).startswith("NllLoss"):
        return [table for table in loss.operands[:1] if table is not None]
    near = [edge for edge, _ in zip(nodes_behind(loss), range(_NEAR), strict=False)]
    return [operand for edge in near for operand in edge.operands if operand is not None]


def _made(table: Edge) -> tuple[int, int]:
    """What made a table, views left out."""
    maker = provenance_of_edge(table).maker
    return table.key if maker is None else maker.edge.key


def _if_nothing_is_added(found: Found) -> Found:
    return replace(found, certainty="heuristic", message=f"{found.message} Intended if the log-sum-exp of each row is "
                   "added to it elsewhere.")  # fmt: skip


def _found_in_nll(call: LossCall) -> Iterator[Found]:
    found = next(_nll_of_others(call), None)
    if found is not None:
        alone = call.origin != "graph" or (call.table is not None and call.table.is_root)
        yield found if alone or found.certainty != "proof" else _if_nothing_is_added(found)


def _nll_of_others(call: LossCall) -> Iterator[Found]:
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
    if made is not None and made.maker is not None and not made.is_hidden:
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
        watcher=_Finished,
        example=_HEAD + "loss = F.nll_loss(model(x), y)\nloss.backward()\n",
        corrected=_HEAD + "loss = F.nll_loss(model(x).log_softmax(dim=1), y)\nloss.backward()\n",
    ),
)
