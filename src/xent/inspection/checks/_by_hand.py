"""Losses written by hand: log-probabilities that overflow, and picks that pick too much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from xent.inspection._nodes import Edge, kind_of, signed
from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._events import BackwardCall, LossCall, Reduction
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._provenance import provenance_of_edge, saved

_ARITHMETIC = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Sum", "Mean", "Where"),
    *("Stack", "Cat", "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute"),
    *("Transpose", "T", "Select", "Unbind", "Slice", "Gather", "IndexSelect", "MaskedSelect"),
    *("Expand", "Index", "Clone", "ToCopy", "Rsub"),
)
_VIEWS = (
    *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Expand", "Transpose", "Permute"),
    *("T", "Clone", "ToCopy"),
)
_KEEP_ORDER = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select")  # Select of all numbers
_MOST_NODES = 300
_OVERFLOW, _UNDERFLOW = 88.7, 104.0  # exp in float32: inf above the one, 0 below minus the other
_TOLD = "xent.doctor.by_hand"  # in the metadata of a node that was judged


@dataclass(frozen=True)
class _Unsafe:
    """How ln p was made, and the exp or softmax that it was made of."""

    written: str
    table: Edge
    overflows: bool


class _ByHand(Watcher):
    """Looks at a loss where it is made a number, and else where its backward begins."""

    every_step = False

    def at_reduction(self, reduction: Reduction) -> Iterator[Found]:
        return self._judged(reduction.edges)

    def at_backward(self, backward: BackwardCall) -> Iterator[Found] | None:
        return self._judged(backward.edges) if backward.sampled else None

    def _judged(self, edges: list[Edge]) -> Iterator[Found]:
        for edge in _arithmetic_behind(edges):
            if _TOLD + type(self).__name__ not in edge.node.metadata:
                found = self.judge(edge)
                if found is not None:
                    edge.node.metadata[_TOLD + type(self).__name__] = True
                    yield found

    def judge(self, edge: Edge) -> Found | None:
        """What is wrong with one node, if anything is."""
        raise NotImplementedError


class _UnsafeLogs(_ByHand):
    def judge(self, edge: Edge) -> Found | None:
        unsafe = _unsafe(edge) if kind_of(edge) == "Log" else None
        return None if unsafe is None else _found_unsafe(unsafe)


class _WrongPicks(_ByHand):
    def judge(self, edge: Edge) -> Found | None:
        return _wrong_pick(edge) if kind_of(edge) == "Index" else None


def _unsafe_input(call: LossCall) -> Iterator[Found]:
    """nll_loss(log(softmax(x))), nll_loss(x − log(Σ exp(x)))."""
    maker = call.provenance.maker
    made_of = [] if maker is None else [maker.edge]
    if maker is not None and maker.kind == "Sub":
        made_of = [_behind_views(operand) for operand in maker.edge.operands]
    for edge in made_of:
        unsafe = _unsafe(edge) if edge is not None and kind_of(edge) == "Log" else None
        if unsafe is not None:
            yield _found_unsafe(unsafe)


def _arithmetic_behind(edges: list[Edge]) -> Iterator[Edge]:
    """The nodes between a number and the tables it was picked from; p · ln p, an entropy, is not entered."""
    waiting, seen = list(edges), set()
    while waiting and len(seen) < _MOST_NODES:
        edge = waiting.pop()
        if edge.node in seen:
            continue
        seen.add(edge.node)
        yield edge
        operands = [operand for operand in edge.operands if operand is not None]
        if kind_of(edge) in _ARITHMETIC and not (kind_of(edge) == "Mul" and len(operands) > 1):
            waiting.extend(operands)


def _unsafe(log: Edge) -> _Unsafe | None:
    inner = _behind_views(log.operands[0])
    if inner is None:
        return None
    if kind_of(inner) == "Softmax":
        return _Unsafe("log(softmax(x))", inner, overflows=False)
    if kind_of(inner) == "Sum":
        exp = _behind_views(inner.operands[0])
        if exp is not None and kind_of(exp) == "Exp" and not _is_shifted(exp) and _over_classes(inner, exp):
            return _Unsafe("log(Σ exp(x))", exp, overflows=True)
    if kind_of(inner) == "Div" and len(inner.operands) == 2:
        top, bottom = (_behind_views(operand) for operand in inner.operands)
        total = None if bottom is None or kind_of(bottom) != "Sum" else _behind_views(bottom.operands[0])
        if top is not None and total is not None and kind_of(top) == kind_of(total) == "Exp" and _same(top, total):
            return _Unsafe("log(exp(x) / Σ exp(x))", top, overflows=not _is_shifted(top))
    return None


def _same(one: Edge, other: Edge) -> bool:
    """Whether both are exp of one tensor."""
    of_one, of_other = one.operands[0], other.operands[0]
    return one.node is other.node or (of_one is not None and of_other is not None and of_one.node is of_other.node)


def _behind_views(edge: Edge | None) -> Edge | None:
    while edge is not None and kind_of(edge) in _VIEWS:
        edge = edge.operands[0]
    return edge


def _is_shifted(exp: Edge) -> bool:
    """Whether something, such as the maximum, was subtracted before."""
    inner = exp.operands[0]
    return inner is not None and kind_of(inner) in ("Sub", "Rsub")


def _over_classes(total: Edge, exp: Edge) -> bool:
    """A sum over one dim of a table; not over everything."""
    return len(exp.shape) >= 1 and math.prod(total.shape) < math.prod(exp.shape) and len(exp.shape) > 1


def _found_unsafe(unsafe: _Unsafe) -> Found:
    numbers, here = _reach(unsafe)
    ways = f"exp overflows float32 above {_OVERFLOW}, and " if unsafe.overflows else ""
    gap = "" if unsafe.written == "log(Σ exp(x))" else f"p is 0, and its log −inf, at a gap of {_UNDERFLOW:g}"
    why = (ways + gap) or f"exp overflows float32 above {_OVERFLOW}"
    return Found(
        message=f"log-probabilities are written out as {unsafe.written}: {why.removesuffix(', and ')}{here}.",
        fix="x.log_softmax(dim), or x − x.logsumexp(dim, keepdim=True), or cross_entropy on the logits",
        proof=f"LogBackward0 over {unsafe.table.name}",
        values=numbers,
    )


def _reach(unsafe: _Unsafe) -> tuple[dict[str, float], str]:
    """The largest logit and the widest gap of this batch, from what exp or softmax kept."""
    result = saved(unsafe.table, "result")
    if not isinstance(result, Tensor) or not result.numel() or result.numel() > 1 << 22 or result.device.type == "meta":
        return {}, ""
    logits = result.detach().double().log()
    numbers: dict[str, float] = {}
    if kind_of(unsafe.table) == "Exp" and not _is_shifted(unsafe.table):
        numbers["max_logit"] = float(logits.max())
    gap = float((logits.amax(-1) - logits.amin(-1)).max())
    numbers["gap"] = gap
    if not math.isfinite(numbers.get("max_logit", 0.0)):
        return {}, " (exp overflowed in this batch)"
    parts = [f"{name} here is {number:.4g}" for name, number in
             (("the largest x", numbers.get("max_logit")), ("the widest gap", gap)) if number is not None]  # fmt: skip
    return {name: number for name, number in numbers.items() if math.isfinite(number)}, f" ({', '.join(parts)})"


def _wrong_pick(index: Edge) -> Found | None:
    table, places = index.operands[0], saved(index, "indices")
    if table is None or not isinstance(places, (list, tuple)):
        return None
    given = [place for place in places if isinstance(place, Tensor)]
    if len(given) != 1 or given[0].ndim != 1 or given[0].dtype == torch.bool or len(given[0]) < 2:
        return None
    target = given[0]
    if len(table.shape) == 2 and len(places) == 2 and places[0] is None and table.shape[0] == len(target):
        return _found_pick(table, target, ("lp[:, y]", f"a matrix of {len(target)} × {len(target)}"), None)
    if kind_of(table) == "Select" and len(table.shape) == 1:
        whole, row = table.operands[0], saved(table, "index")
        if whole is not None and len(whole.shape) == 2 and whole.shape[0] == len(target) and row is not None \
                and signed(saved(table, "dim")) % 2 == 0:  # fmt: skip
            return _found_pick(whole, target, (f"lp[{signed(row)}, y]", f"row {signed(row)} for every target"), row)
    return None


def _found_pick(table: Edge, target: Tensor, words: tuple[str, str], row: int | None) -> Found | None:
    made = provenance_of_edge(table)
    maker = made.maker
    if maker is None or maker.kind != "LogSoftmax":
        return None
    log_probs = saved(maker.edge, "result")
    if isinstance(log_probs, Tensor) and all(step.kind in _KEEP_ORDER for step in made.steps):
        log_probs = log_probs.reshape(table.shape) if log_probs.numel() == math.prod(table.shape) else log_probs
    if not isinstance(log_probs, Tensor) or tuple(log_probs.shape) != tuple(table.shape) or len(target) > 4096:
        raise NotChecked("the log-probabilities are not there as they were picked from")
    log_probs, target = log_probs.detach().double(), target.detach().long()
    picked = log_probs[:, target] if row is None else log_probs[signed(row), target]
    wrong, right = -float(picked.mean()), -float(log_probs[torch.arange(len(target)), target].mean())
    return Found(
        message=f"{words[0]} takes {words[1]}, not each row's own target: its mean is {wrong:.4g}, and the loss is "
        f"{right:.4g}.",
        fix=f"lp[torch.arange({len(target)}), y], or nll_loss(lp, y)",
        proof=f"one index tensor of {len(target)} targets on log-probabilities of {table.shape[0]} rows",
        values={"wrong": wrong, "right": right, "rows": len(target)},
    )


RULES = (
    Rule(
        slug="hand-written-log-softmax",
        severity="warning",
        certainty="proof",
        title="log-probabilities written out with exp and log",
        functions=("nll_loss",),
        needs=("a graph",),
        at_loss_call=_unsafe_input,
        watcher=_UnsafeLogs,
        example="""
import torch

logits = torch.randn(8, 5, requires_grad=True)
labels = torch.randint(5, (8,))
log_probs = (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
loss = -log_probs[torch.arange(8), labels].mean()
loss.backward()
""",
        corrected="""
import torch

logits = torch.randn(8, 5, requires_grad=True)
labels = torch.randint(5, (8,))
log_probs = logits.log_softmax(1)
loss = -log_probs[torch.arange(8), labels].mean()
loss.backward()
""",
    ),
    Rule(
        slug="nll-index-wrong",
        severity="error",
        certainty="proof",
        title="lp[:, y] in place of lp[arange, y]",
        needs=("a graph",),
        watcher=_WrongPicks,
        example="""
import torch

logits = torch.randn(8, 5, requires_grad=True)
labels = torch.randint(5, (8,))
log_probs = logits.log_softmax(1)
loss = -log_probs[:, labels].mean()
loss.backward()
""",
        corrected="""
import torch

logits = torch.randn(8, 5, requires_grad=True)
labels = torch.randint(5, (8,))
log_probs = logits.log_softmax(1)
loss = -log_probs[torch.arange(8), labels].mean()
loss.backward()
""",
    ),
)
