"""Dims and values that the logits lost between two looks at them: squeezed batches, edits in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, LossCall, Write
from xent.inspection.examination._finding import Found

_MOST_SITES = 1000
_MOST_TENSORS = 64  # whose versions are remembered


class _BatchDims(Watcher):
    """Whether a line that was given (N, C) before is given (C,) now: such a call is always looked at."""

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self._classes: dict[CallSite | None, int] = {}

    def at_loss_call(self, call: LossCall) -> Iterator[Found]:
        if call.name not in ("cross_entropy", "nll_loss") or not call.has_input or call.origin == "by hand":
            return
        shape = call.input.shape
        if len(shape) == 2 and len(self._classes) < _MOST_SITES:
            self._classes[call.site] = shape[1]
        elif len(shape) == 1 and self._classes.get(call.site) == shape[0]:
            yield Found(
                message=f"the logits have shape ({shape[0]},) at a line that was given (N, {shape[0]}) before: a batch "
                "of one row lost its batch dim, and what counts rows or averages over dim 0 now sees classes.",
                fix="squeeze(-1), or flatten(1), in place of squeeze(): it drops every dim of size 1",
                proof="the same line was given logits of two dims with as many classes",
                values={"classes": shape[0]},
            )


class _Edits(Watcher):
    """Whether a tensor that a loss was made of is another at the second look: its version says so."""

    every_step = False

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, CallSite | None]] = {}

    def at_loss_call(self, call: LossCall) -> Iterator[Found]:
        if not call.has_input or call.origin == "by hand" or call.name == "kl_div":
            return
        logits = call.input
        if _is_trained(logits) or logits.is_inference() or type(logits) is not Tensor:
            return
        yield from self._judged(id(logits), call.site)
        if len(self._seen) >= _MOST_TENSORS:
            self._seen = {key: each for key, each in self._seen.items() if each[0]() is not None}
        if len(self._seen) < _MOST_TENSORS:
            self._seen[id(logits)] = (weakref.ref(logits), logits._version, call.site)
        self.run.looked_at = set(self._seen)

    def at_write(self, write: Write) -> Iterator[Found]:
        return self._judged(id(write.tensor), None)

    def at_backward(self, backward: BackwardCall) -> Iterator[Found]:
        for key in list(self._seen):
            yield from self._judged(key, None)

    def at_end(self) -> Iterator[Found]:
        for key in list(self._seen):
            yield from self._judged(key, None)

    def _judged(self, key: int, site: CallSite | None) -> Iterator[Found]:
        reference, version, first = self._seen.get(key, (None, 0, None))
        logits = None if reference is None else reference()
        if reference is not None and logits is None:
            del self._seen[key]
        if logits is None or logits._version == version or _is_trained(logits):
            return
        del self._seen[key]
        edits = logits._version - version
        yield Found(
            message=f"the tensor that was passed as logits was changed in place {edits:,} time{'s' * (edits > 1)} "
            "since: a second look at the same tensor gives another loss, as running a cell of a notebook again does.",
            fix="change a copy: logits = logits + …, or logits.clone() first",
            proof=f"its version counter went from {version} to {logits._version}",
            values={"edits": edits},
            site=site or first,
        )


def _is_trained(tensor: Tensor) -> bool:
    """A leaf that learns is changed by every step."""
    return tensor.is_leaf and tensor.requires_grad


RULES = (
    Rule(
        slug="batch-dim-lost",
        severity="warning",
        certainty="signature",
        title="a batch of one row lost its batch dim",
        needs=("several calls of one line",),
        watcher=_BatchDims,
        example="""
import torch
import torch.nn.functional as F

images, labels = torch.randn(9, 5, 1, 1), torch.randint(5, (9,))
for start in range(0, 9, 4):
    logits = images[start : start + 4].squeeze()
    F.cross_entropy(logits, labels[start : start + 4].squeeze())
""",
        corrected="""
import torch
import torch.nn.functional as F

images, labels = torch.randn(9, 5, 1, 1), torch.randint(5, (9,))
for start in range(0, 9, 4):
    logits = images[start : start + 4].flatten(1)
    F.cross_entropy(logits, labels[start : start + 4])
""",
    ),
    Rule(
        slug="logits-edited-in-place",
        severity="warning",
        certainty="proof",
        title="logits changed in place after a loss was made of them",
        needs=("logits that live on after the loss",),
        watcher=_Edits,
        example="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
F.cross_entropy(logits, labels)
for i in range(4):
    logits[i] = logits[i].softmax(0)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
F.cross_entropy(logits, labels)
probabilities = logits.clone()
for i in range(4):
    probabilities[i] = probabilities[i].softmax(0)
""",
    ),
)
