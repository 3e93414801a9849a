"""The public loss functions: check, pick a backend, reduce."""

from __future__ import annotations

from xent.functional._accelerate import accelerate
from xent.functional._binary_cross_entropy import binary_cross_entropy, binary_cross_entropy_with_logits
from xent.functional._cross_entropy import cross_entropy
from xent.functional._linear_cross_entropy import linear_cross_entropy
from xent.functional._log_softmax import log_softmax, logsumexp
from xent.functional._nll_loss import nll_loss
from xent.functional._token_logprobs import token_logprobs
from xent.row_stats import RowStats, TokenLogprobs

__all__ = [
    "RowStats",
    "TokenLogprobs",
    "accelerate",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "token_logprobs",
]
