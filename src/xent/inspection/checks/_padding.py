"""Targets that do not count and should, or count and should not: padding, ends of text."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from xent.inspection.checks._rule import Rule
from xent.inspection.checks._token_rows import TokenRows, ids_read, token_rows
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_LEAST_ROWS = 2
_LEAST_SHARE = 0.05  # of the targets: below, it changes little
_CHANCE = 0.01  # of a class that stands at the ends of rows only, though it is no padding


def _suspect(call: LossCall) -> Iterator[Found]:
    rows = token_rows(call)
    if rows.target.shape[0] < _LEAST_ROWS:
        raise NotChecked("one row of tokens has no tails to compare")
    yield from _ignored_in_the_middle(call, rows)
    yield from _padding_that_counts(call, rows)


def _ignored_in_the_middle(call: LossCall, rows: TokenRows) -> Iterator[Found]:
    """Padding stands at the ends; a class that is ignored stands anywhere."""
    index = call.ignore_index
    if not 0 <= index < call.num_classes:
        return
    inner = ~rows.counted & _any_before(rows.counted) & _any_before(rows.counted.flip(1)).flip(1)
    share = float(inner.double().mean())
    if share < _LEAST_SHARE:
        return
    yield Found(
        message=f"ignore_index={index} is a class that {100 * share:.3g} % of the targets have away from the ends "
        "of their rows: padding stands at the ends, so these are labels that the model never learns.",
        fix="pad the targets with −100 (ignore_index's default) and let every class count",
        proof=f"{int(inner.sum()):,} ignored targets have counted ones before and behind them; innocent if the class "
        "is left out on purpose",
        values={"share": share, "ignore_index": index},
    )


def _padding_that_counts(call: LossCall, rows: TokenRows) -> Iterator[Found]:
    """One id at the ends of rows of unequal length, and nowhere else."""
    target, length = rows.target, rows.target.shape[1]
    if not bool(rows.counted.all()) or length < 4:
        return
    pad = int(target[:, -1].mode().values)
    runs = _tail_runs(target == pad)
    at_tails, everywhere = int(runs.sum()), int((target == pad).sum())
    ragged = len(torch.unique(runs)) > 1 and bool((runs >= 2).double().mean() >= 0.25)
    if not ragged or at_tails != everywhere or at_tails < _LEAST_SHARE * target.numel() or int(runs.max()) == length:
        return
    if _chance_of_tails(len(target), target.numel(), at_tails) > _CHANCE:
        return
    share = at_tails / target.numel()
    yield Found(
        message=f"class {pad} fills the ends of the rows, stands nowhere else, and counts: {100 * share:.3g} % of the "
        "targets look like padding, which is easy to predict and makes the mean loss look small.",
        fix=f"ignore_index={pad}, or targets of −100 where there is padding",
        proof=f"the last {int(runs.min())} to {int(runs.max())} targets of each row; innocent if they are labels",
        values={"share": share, "class": pad},
    )


def _chance_of_tails(num_rows: int, num_targets: int, count: int) -> float:
    """Of `count` targets that lie anywhere in the rows: that all lie at the ends. Ways to share them out ÷ to place."""
    return math.exp(_log_comb(count + num_rows - 1, count) - _log_comb(num_targets, count))


def _log_comb(things: int, chosen: int) -> float:
    return math.lgamma(things + 1) - math.lgamma(chosen + 1) - math.lgamma(things - chosen + 1)


def _end_masked(call: LossCall) -> Iterator[Found]:
    rows = token_rows(call)
    text = _text_with_ignored(call, rows)
    ignored = ~rows.counted
    runs = _tail_runs(ignored)
    if rows.target.shape[0] < _LEAST_ROWS or int(runs.min()) != 1 or len(torch.unique(runs)) < 2:
        return
    ids = torch.unique(text[ignored])
    if len(ids) != 1 or int(ids) < 0 or int(ignored.sum()) != int(runs.sum()):
        return
    end, length = int(ids), text.shape[1]
    before = text[torch.arange(len(text)), (length - runs - 1).clamp_min(0)]
    if bool((text[rows.counted] == end).any()) or len(torch.unique(before)) < 2 or bool((runs == length).any()):
        return
    yield Found(
        message=f"token {end} ends every row, the longest one too, and never counts: it is padding and end of text at "
        "once, both are ignored, and the model never learns to stop.",
        fix="give padding a token of its own, or let the first one behind each text count",
        proof=f"every row ends with 1 to {int(runs.max())} of them, all ignored, after {len(torch.unique(before))} "
        "different tokens",
        values={"token": end, "ignored": int(ignored.sum())},
    )


def _text_with_ignored(call: LossCall, rows: TokenRows) -> Tensor:
    """The targets, and where they are ignored what the model reads there: the next token."""
    index = call.ignore_index
    if 0 <= index < call.num_classes:
        return rows.target
    for ids in ids_read(call, rows):
        shift = rows.offset + 1
        following = ids[:, shift : shift + rows.target.shape[1]]
        if following.shape == rows.target.shape and bool((following == rows.target)[rows.counted].all()):
            return following
    raise NotChecked("what was read where the targets are ignored is not known")


def _any_before(mask: Tensor) -> Tensor:
    """Whether an earlier position of the row has it."""
    return (mask.long().cumsum(1) - mask.long()) > 0


def _tail_runs(mask: Tensor) -> Tensor:
    """How many positions at the end of each row have it without a gap."""
    return mask.flip(1).long().cumprod(1).sum(1)


RULES = (
    Rule(
        slug="ignore-index-suspect",
        severity="warning",
        certainty="heuristic",
        title="ignore_index is a class, or padding counts",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices in rows of tokens",),
        at_loss_call=_suspect,
        example="""
import torch
import torch.nn.functional as F

logits, tags = torch.randn(4, 3, 8), torch.arange(32).view(4, 8) % 3
loss = F.cross_entropy(logits, tags, ignore_index=0)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, tags = torch.randn(4, 3, 8), torch.arange(32).view(4, 8) % 3
tags[1, 5:] = -100
loss = F.cross_entropy(logits, tags)
""",
    ),
    Rule(
        slug="eos-masked-as-pad",
        severity="warning",
        certainty="signature",
        title="the end of text is padding too, and never counts",
        functions=("cross_entropy", "nll_loss", "linear_cross_entropy"),
        needs=("class indices in rows of tokens",),
        at_loss_call=_end_masked,
        example="""
import torch
import torch.nn.functional as F

end = pad = 0
ids = torch.tensor([[5, 7, 3, 9, end], [4, 8, end, pad, pad], [6, 2, 11, end, pad]])
logits = torch.nn.Embedding(12, 12)(ids[:, :-1])
loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=pad)
""",
        corrected="""
import torch
import torch.nn.functional as F

end, pad = 0, 1
ids = torch.tensor([[5, 7, 3, 9, end], [4, 8, end, pad, pad], [6, 2, 11, end, pad]])
logits = torch.nn.Embedding(12, 12)(ids[:, :-1])
loss = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=pad)
""",
    ),
)
