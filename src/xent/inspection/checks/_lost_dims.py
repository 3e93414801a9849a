"""Dims and values that the logits lost between two looks at them: squeezed batches, edits in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import BackwardCall, LossCall, Write
from xent.inspection.examination._finding import Found

_MOST_SITES = 1000
_MOST_TENSORS = 64  # whose versions are remembered


class _BatchDims(Watcher):
    """Whether a line that was given (N, C) before is given (C,) now: such a call is always looked at.

    A line that begins with one row without a batch dim is given such rows on purpose.
    """

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self._classes: dict[CallSite | None, int] = {}  # 0 for a line that is not judged

    def at_loss_call(self, call: LossCall) -> Iterator[Found]:
        if call.name not in ("cross_entropy", "nll_loss") or not call.has_input or call.origin == "by hand":
            return
        shape = call.input.shape
        if call.number == 1 and len(self._classes) < _MOST_SITES:
            self._classes[call.site] = shape[1] if len(shape) == 2 else 0
        elif len(shape) == 2 and self._classes.get(call.site):
            self._classes[call.site] = shape[1]
        elif len(shape) == 1 and self._classes.get(call.site) == shape[0]:
            yield Found(
                message=f"the logits have shape ({shape[0]},) at a line that was given (N, {shape[0]}) before: a batch "
                "of one row lost its batch dim, and what counts rows or averages over dim 0 now sees classes. Intended "
                "if single rows are passed here on purpose.",
                fix="squeeze(-1), or flatten(1), in place of squeeze(): it drops every dim of size 1",
                proof="the same line was given logits of two dims with as many classes",
                values={"classes": shape[0]},
            )


@dataclass
class _Seen:
    """A tensor that a loss was made of, its version then, and how often it was changed since."""

    reference: weakref.ref[Tensor]
    version: int
    site: CallSite | None
    edits: int = 0

    def look(self) -> None:
        """Count the edits so far; what is gone was changed as often as it was when last looked at."""
        logits = self.reference()
        if logits is not None and not _is_trained(logits):
            self.edits = logits._version - self.version


class _Edits(Watcher):
    """Whether a tensor that a loss was made of is another at the second look: its version says so.

    Without a second look an edit is worth a note, where the line has made no loss of another tensor.
    """

    every_step = False

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self._seen: dict[int, _Seen] = {}
        self._again: set[CallSite | None] = set()  # lines that made several losses

    def at_loss_call(self, call: LossCall) -> Iterator[Found]:
        if not call.has_input or call.origin == "by hand" or call.name == "kl_div":
            return
        logits = call.input
        if _is_trained(logits) or logits.is_inference() or type(logits) is not Tensor:
            return
        if call.number > 1 and len(self._again) < _MOST_SITES:
            self._again.add(call.site)
        before = self._seen.pop(id(logits), None)
        if before is not None and before.reference() is logits and logits._version != before.version:
            before.look()
            yield _edited(before, call.site)
        if len(self._seen) >= _MOST_TENSORS:
            self._seen = {key: each for key, each in self._seen.items() if each.edits or each.reference() is not None}
        if len(self._seen) < _MOST_TENSORS:
            self._seen[id(logits)] = _Seen(weakref.ref(logits), logits._version, call.site)
        self.run.looked_at = set(self._seen)

    def at_write(self, write: Write) -> None:
        seen = self._seen.get(id(write.tensor))
        if seen is not None:
            seen.look()

    def at_backward(self, backward: BackwardCall) -> None:
        for seen in self._seen.values():
            seen.look()

    def at_end(self) -> Iterator[Found]:
        for seen in self._seen.values():
            seen.look()
            if seen.edits and seen.site not in self._again:
                found = _edited(seen, seen.site)
                yield replace(found, severity="info", message=f"{found.message} Harmless if it is not looked at again.")


def _edited(seen: _Seen, site: CallSite | None) -> Found:
    return Found(
        message=f"the tensor that was passed as logits was changed in place {seen.edits:,} time{'s' * (seen.edits > 1)}"
        " since: a second look at the same tensor gives another loss, as running a cell of a notebook again does.",
        fix="change a copy: logits = logits + …, or logits.clone() first",
        proof=f"its version counter went from {seen.version} to {seen.version + seen.edits}",
        values={"edits": seen.edits},
        site=site,
    )


def _is_trained(tensor: Tensor) -> bool:
    """A leaf that learns is changed by every step."""
    return tensor.is_leaf and tensor.requires_grad


RULES = (
    Rule(
        slug="batch-dim-lost",
        severity="warning",
        certainty="heuristic",
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
    logits[i] = logits[i] / 2.5
F.cross_entropy(logits, labels)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
F.cross_entropy(logits, labels)
scaled = logits.clone()
for i in range(4):
    scaled[i] = scaled[i] / 2.5
F.cross_entropy(scaled, labels)
""",
    ),
)
