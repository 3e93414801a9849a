"""Labels of a language model that are not the next token: not shifted, or shifted twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.checks._sequence_models import is_causal, is_squeezed
from xent.inspection.checks._token_rows import (
    TokenRows,
    ids_read,
    ids_read_in_place,
    reading_embeddings,
    token_rows,
)
from xent.inspection.examination._call_site import CallSite
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked
from xent.inspection.examination._run import Run

_NEARLY_ALL, _NO_OTHER = 0.98, 0.7
_LEAST = 8  # counted targets
_SHIFTS = (-2, -1, 0, 1, 2, 3)
_FUNCTIONS = ("cross_entropy", "nll_loss", "linear_cross_entropy")
_NO_EMBEDDING = "no embedding of tokens behind the logits"
Text = tuple[int, int]  # how many backwards there were, where the ids lie


@dataclass
class _Line:
    """The calls of one line that were looked at: what was found, in which text, and whether one showed otherwise."""

    found: list[tuple[Found, Text]] = field(default_factory=list)
    is_contradicted: bool = False


class _Shifts(Watcher):
    """Judged at the end: what one batch shows may be chance, such as noise that met no token of it."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._lines: dict[CallSite | None, _Line] = {}
        self.next_token: set[Text] = set()  # texts of which some loss predicts the next token

    def at_loss_call(self, call: LossCall) -> None:
        if call.name not in _FUNCTIONS:
            return
        rows = token_rows(call)
        ids = ids_read(call, rows)
        if not ids:
            raise NotChecked(_NO_EMBEDDING)
        line = self._lines.setdefault(call.site, _Line())
        text = (self.run.num_backwards, ids[0].data_ptr())
        found = self.judge(call, rows, ids, text)
        if found is None:
            line.is_contradicted = True
        else:
            line.found.append((replace(found, site=call.site), text))

    def judge(self, call: LossCall, rows: TokenRows, ids: list[Tensor], text: Text) -> Found | None:
        """What one call shows; None where it shows that all is well."""
        raise NotImplementedError

    def at_end(self) -> Iterator[Found]:
        if not self._lines:
            raise NotChecked("no loss of tokens that an embedding read")
        for line in self._lines.values():
            if not line.is_contradicted:
                yield from (found for found, text in line.found if text not in self.next_token)


class _NotShifted(_Shifts):
    def judge(self, call: LossCall, rows: TokenRows, ids: list[Tensor], text: Text) -> Found | None:
        """All of them, since one that differs tells of noise that is to be taken out."""
        share, count = _only_shift(rows, ids, 0)
        proof = "the ids of every embedding behind the logits equal the targets, and do at no other shift"
        if share == 1 and is_squeezed(call.edge, reading_embeddings(call, rows), rows):
            return None
        if share < 1:
            share, count = max(
                (_only_shift(rows, [each], 0) for each in ids_read_in_place(call, rows)), default=(0.0, 0)
            )
            proof = "the ids of an embedding whose way to the logits never leaves its position equal the targets"
        return _copies(count, proof, sees_ahead=not is_causal(call.edge)) if share == 1 else None


def _copies(count: int, proof: str, *, sees_ahead: bool) -> Found:
    return Found(
        message=f"the target at position t is the token that the model reads at position t (all {count:,}): it learns "
        "to copy its input, and the loss goes to 0 without the next token being predicted."
        + (" Intended if it corrects or rebuilds the sequence that it reads." if sees_ahead else ""),
        fix="shift by one: logits[:, :-1] against input_ids[:, 1:] (or shift=1 of xent's losses)",
        proof=proof if sees_ahead else f"{proof}; its attention is causal",
        values={"share": 1.0, "targets": count},
        certainty="signature" if sees_ahead else "proof",
    )


class _ShiftedTwice(_Shifts):
    def judge(self, call: LossCall, rows: TokenRows, ids: list[Tensor], text: Text) -> Found | None:
        """Heads that predict the token after the next stand beside one that predicts the next."""
        if _only_shift(rows, ids, 1)[0]:
            self.next_token.add(text)
            return None
        share, count = _only_shift(rows, ids, 2)
        return Found(
            message=f"the target at position t is the token at position t + 2 ({100 * share:.4g} % of {count:,}): the "
            "labels were shifted twice, and the model learns to skip a token.",
            fix="shift once: where the data or the model shifts the labels already, don't do it again",
            proof="the ids of every embedding behind the logits equal the targets at a shift of two, and at no other; "
            "no loss predicts the next token of this text",
            values={"share": share, "targets": count},
        ) if share else None  # fmt: skip


def _can_be_judged(call: LossCall) -> None:
    """The watchers judge it.

    Raises:
        NotChecked: there is nothing to judge by.
    """
    if not ids_read(call, token_rows(call)):
        raise NotChecked(_NO_EMBEDDING)


def _only_shift(rows: TokenRows, all_ids: list[Tensor], shift: int) -> tuple[float, int]:
    """The share of targets that are the ids `shift` positions on, if nearly all are, for every embedding; else 0.

    Raises:
        NotChecked: too few targets, or a text that repeats itself.
    """
    least, count = 1.0, 0
    for ids in all_ids:
        shares = {other: _share(rows, ids, other) for other in _SHIFTS}
        share, count = shares.pop(shift)
        if count < _LEAST:
            raise NotChecked(f"fewer than {_LEAST} targets count")
        if share < _NEARLY_ALL:
            return 0.0, 0
        if any(other > _NO_OTHER for other, _ in shares.values()):
            raise NotChecked("the text repeats itself, so that it fits at several shifts")
        least = min(least, share)
    return least, count


def _share(rows: TokenRows, ids: Tensor, shift: int) -> tuple[float, int]:
    """Of the counted targets for which ids[t + shift] is there, how many are it."""
    shift += rows.offset
    length = rows.target.shape[1]
    first, last = max(0, -shift), min(length, ids.shape[1] - shift)
    if last <= first:
        return 0.0, 0
    counted = rows.counted[:, first:last]
    same = (rows.target[:, first:last] == ids[:, first + shift : last + shift]) & counted
    count = int(counted.sum())
    return (int(same.sum()) / count if count else 0.0), count


RULES = (
    Rule(
        slug="labels-not-shifted",
        severity="error",
        certainty="proof",
        title="a language model is trained to copy its input",
        functions=_FUNCTIONS,
        needs=("a graph", "an embedding of tokens behind the logits"),
        at_loss_call=_can_be_judged,
        watcher=_NotShifted,
        example="""
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50))
ids = torch.randint(50, (4, 12))
logits = model(ids)
loss = F.cross_entropy(logits.transpose(1, 2), ids)
loss.backward()
""",
        corrected="""
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50))
ids = torch.randint(50, (4, 12))
logits = model(ids)
loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])
loss.backward()
""",
    ),
    Rule(
        slug="labels-shifted-twice",
        severity="error",
        certainty="proof",
        title="labels shifted by two tokens",
        functions=_FUNCTIONS,
        needs=("a graph", "an embedding of tokens behind the logits"),
        at_loss_call=_can_be_judged,
        watcher=_ShiftedTwice,
        example="""
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50))
text = torch.randint(50, (4, 13))
ids, labels = text[:, :-1], text[:, 1:]
logits = model(ids)
loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])
loss.backward()
""",
        corrected="""
import torch
import torch.nn.functional as F

model = torch.nn.Sequential(torch.nn.Embedding(50, 16), torch.nn.Linear(16, 50))
text = torch.randint(50, (4, 13))
ids, labels = text[:, :-1], text[:, 1:]
logits = model(ids)
loss = F.cross_entropy(logits.transpose(1, 2), labels)
loss.backward()
""",
    ),
)
