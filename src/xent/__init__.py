"""xent: cross-entropy that one can afford, see through and trust.

`import xent` loads nothing heavy: every public name is resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME_OF = {
    "cross_entropy": "xent.functional",
    "linear_cross_entropy": "xent.functional",
    "nll_loss": "xent.functional",
    "binary_cross_entropy": "xent.functional",
    "binary_cross_entropy_with_logits": "xent.functional",
    "log_softmax": "xent.functional",
    "logsumexp": "xent.functional",
    "token_logprobs": "xent.functional",
    "accelerate": "xent.functional",
    "RowStats": "xent.functional",
    "TokenLogprobs": "xent.functional",
    "explain": "xent.inspection",
    "Explanation": "xent.inspection",
    "StepLedger": "xent.inspection",
    "step": "xent.inspection",
    "Finding": "xent.inspection",
    "Report": "xent.inspection",
    "check": "xent.inspection",
    "doctor": "xent.inspection",
    "watch": "xent.inspection",
    "LossTerms": "xent.terms",
    "SparseTarget": "xent.sparse_target",
    "backend": "xent.ops",
    "choices": "xent.ops",
    "check_targets": "xent.target_checks",
    "XentError": "xent.errors",
}
_SUBMODULES = ("distributed", "errors", "functional", "nn", "ops")

__all__ = [
    "Explanation",
    "Finding",
    "LossTerms",
    "Report",
    "RowStats",
    "SparseTarget",
    "StepLedger",
    "TokenLogprobs",
    "XentError",
    "__version__",
    "accelerate",
    "backend",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "check",
    "check_targets",
    "choices",
    "cross_entropy",
    "distributed",
    "doctor",
    "errors",
    "explain",
    "functional",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "nn",
    "ops",
    "step",
    "token_logprobs",
    "watch",
]  # a literal, for type checkers

if TYPE_CHECKING:
    from xent import distributed, errors, functional, nn, ops
    from xent.errors import XentError
    from xent.functional import (
        RowStats,
        TokenLogprobs,
        accelerate,
        binary_cross_entropy,
        binary_cross_entropy_with_logits,
        cross_entropy,
        linear_cross_entropy,
        log_softmax,
        logsumexp,
        nll_loss,
        token_logprobs,
    )
    from xent.inspection import Explanation, Finding, Report, StepLedger, check, doctor, explain, step, watch
    from xent.ops import backend, choices
    from xent.sparse_target import SparseTarget
    from xent.target_checks import check_targets
    from xent.terms import LossTerms


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    elif name in _SUBMODULES:
        value = import_module(f"xent.{name}")
    else:
        raise AttributeError(f"module 'xent' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
