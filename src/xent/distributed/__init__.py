"""Losses over many ranks, on torch.distributed: the log-sum-exp states of the ranks are merged."""

from __future__ import annotations

from xent.distributed._row_counts import TokenMean, global_row_count, token_mean
from xent.distributed._vocab_parallel import vocab_parallel_cross_entropy
from xent.distributed._vocab_parallel_linear import vocab_parallel_linear_cross_entropy

__all__ = [
    "TokenMean",
    "global_row_count",
    "token_mean",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_linear_cross_entropy",
]
