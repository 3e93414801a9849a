"""Losses over many ranks, on torch.distributed: the log-sum-exp states of the ranks are merged."""

from __future__ import annotations

from xent.distributed._vocab_parallel import vocab_parallel_cross_entropy

__all__ = ["vocab_parallel_cross_entropy"]
