"""xent in Hugging Face transformers: losses of causal language models without their logits."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Acceleration": "_accelerate",
    "DeferredLogits": "_deferred_logits",
    "accelerate": "_accelerate",
}

__all__ = ["Acceleration", "DeferredLogits", "accelerate"]  # a literal, for type checkers

if TYPE_CHECKING:
    from xent.integrations.transformers._accelerate import Acceleration, accelerate
    from xent.integrations.transformers._deferred_logits import DeferredLogits


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
