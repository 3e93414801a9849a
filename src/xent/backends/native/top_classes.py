"""The most likely classes of rows of logits, equals in the order of their class, in pieces that fit a cache.

topk leaves open which of several equal logits it takes and how it orders them. The classes above its smallest value are
those of any choice; the places below them go to the first classes of exactly that value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xent.problem import stats_dtype
from xent.terms import LossTerms

PIECE = 1 << 18  # logits at a time


def top_classes(logits: Tensor, count: int, terms: LossTerms) -> Tensor:
    """Indices of the `count` largest z of logits (n, …, C), as (n·K, count) int64."""
    step = max(PIECE // max(logits[:1].numel(), 1), 1)
    pieces = [_of_piece(_z(logits[i : i + step], terms), count) for i in range(0, len(logits), step)]
    return torch.cat(pieces) if pieces else torch.empty(0, count, dtype=torch.int64)


def better(first: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """The best of two lists of (z, index), each (n, k); the indices of `first` come before those of `then`."""
    z, index = (torch.cat(parts, 1) for parts in zip(first, then, strict=True))
    order = z.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return z.gather(1, order), index.gather(1, order)


def _z(logits: Tensor, terms: LossTerms) -> Tensor:
    """Z in the dtype of the statistics, in which the reference has its ties."""
    z = logits.to(stats_dtype(logits.dtype)).reshape(-1, logits.shape[-1])
    if terms.logit_scale != 1.0:
        z = z * terms.logit_scale
    return z if terms.softcap is None else terms.softcap * torch.tanh(z / terms.softcap)


def _of_piece(z: Tensor, count: int) -> Tensor:
    value, index = z.topk(count, dim=1)
    least = value[:, -1:]
    above = (value > least).sum(1)
    row, column = (z == least).nonzero(as_tuple=True)
    place = above[row] + torch.arange(len(row)) - torch.searchsorted(row, torch.arange(len(z)))[row]
    fits = place < count
    index[row[fits], place[fits]] = column[fits]
    index = index.sort(dim=1).values
    order = z.gather(1, index).sort(dim=1, descending=True, stable=True).indices
    return index.gather(1, order)
