"""Labels of a language model that are not the next token: not shifted, or shifted twice."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from xent.inspection.checks._rule import Rule
from xent.inspection.checks._token_rows import TokenRows, ids_read, ids_read_in_place, token_rows
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_NEARLY_ALL, _NO_OTHER = 0.98, 0.7
_LEAST = 8  # counted targets
_SHIFTS = (-2, -1, 0, 1, 2, 3)


def _not_shifted(call: LossCall) -> Iterator[Found]:
    rows = token_rows(call)
    ids = ids_read(call, rows)
    share, count = _only_shift(rows, ids, 0)
    proof = "the ids of every embedding behind the logits equal the targets, and do at no other shift"
    if not share:
        share, count = max((_only_shift(rows, [each], 0) for each in ids_read_in_place(call, rows)), default=(0.0, 0))
        proof = "the ids of an embedding whose way to the logits never leaves its position equal the targets"
    if share:
        yield Found(
            message=f"the target at position t is the token that the model reads at position t ({100 * share:.4g} % of "
            f"{count:,}): it learns to copy its input, and the loss goes to 0 without the next token being predicted.",
            fix="shift by one: logits[:, :-1] against input_ids[:, 1:] (or shift=1 of xent's losses)",
            proof=proof,
            values={"share": share, "targets": count},
        )


def _shifted_twice(call: LossCall) -> Iterator[Found]:
    rows = token_rows(call)
    share, count = _only_shift(rows, ids_read(call, rows), 2)
    if share:
        yield Found(
            message=f"the target at position t is the token at position t + 2 ({100 * share:.4g} % of {count:,}): the "
            "labels were shifted twice, and the model learns to skip a token.",
            fix="shift once: where the data or the model shifts the labels already, don't do it again",
            proof="the ids of every embedding behind the logits equal the targets at a shift of two, and at no other",
            values={"share": share, "targets": count},
        )


def _only_shift(rows: TokenRows, all_ids: list[Tensor], shift: int) -> tuple[float, int]:
    """The share of targets that are the ids `shift` positions on, if nearly all are, for every embedding; else 0."""
    if not all_ids:
        raise NotChecked("no embedding of tokens behind the logits")
    least, count = 1.0, 0
    for ids in all_ids:
        shares = {other: _share(rows, ids, other) for other in _SHIFTS}
        share, count = shares.pop(shift)
        if count < _LEAST or share < _NEARLY_ALL or any(other > _NO_OTHER for other, _ in shares.values()):
            return 0.0, 0
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
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("a graph", "an embedding of tokens behind the logits"),
        at_loss_call=_not_shifted,
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
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("a graph", "an embedding of tokens behind the logits"),
        at_loss_call=_shifted_twice,
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
