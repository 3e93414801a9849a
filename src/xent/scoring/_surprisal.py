"""Nats, rank and entropy of targets, from logits of a few rows at a time.

nats = −ln p(target)       rank = 1 + #{c : z_c > z_target}       entropy = −Σ p ln p

The rank needs every logit once, as the loss does: a piece of logits that fits a cache is made, read three times and
dropped. N rows and V classes are never held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

import xent
from xent.row_stats import TokenLogprobs

_PIECE = 1 << 23  # logits at a time: 32 MiB in float32


class Logits(Protocol):
    """Logits (N, V) that can be made for some rows."""

    @property
    def shape(self) -> torch.Size:
        """(N, V)."""
        ...

    def rows(self, begin: int, end: int) -> Tensor:
        """Logits (end − begin, V)."""
        ...


@dataclass(frozen=True)
class Scores:
    """Of each row (N,): surprisal and entropy in nats, float64; rank from 1, int64; equals share the better rank."""

    nats: Tensor
    rank: Tensor
    entropy: Tensor


@torch.no_grad()
def scores_of(logits: Logits, target_N: Tensor) -> Scores:
    """Score the target of every row."""
    pieces = list(_pieces(logits, target_N))
    if not pieces:
        nothing = torch.empty(0, dtype=torch.float64)
        return Scores(nothing, torch.empty(0, dtype=torch.int64), nothing)
    nats, rank, entropy = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Scores(nats.double(), rank, entropy.double())


def _pieces(logits: Logits, target_N: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    count, num_classes = logits.shape
    step = max(_PIECE // max(num_classes, 1), 1)
    for begin in range(0, count, step):
        target = target_N[begin : begin + step]
        z = logits.rows(begin, min(begin + step, count))
        made = cast(TokenLogprobs, xent.token_logprobs(z, target, entropy=True))
        entropy = cast(Tensor, made.entropy)  # asked for
        rank = 1 + (z > z.gather(1, target.unsqueeze(1))).sum(1)
        yield (-made.logprob).cpu(), rank.cpu(), entropy.cpu()
