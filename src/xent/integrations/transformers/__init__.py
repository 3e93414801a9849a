"""xent in Hugging Face transformers: losses without logits, and the Trainer's run written down."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Acceleration": "_accelerate",
    "DeferredLogits": "_deferred_logits",
    "Watch": "_watch_callback",
    "accelerate": "_accelerate",
}

__all__ = ["Acceleration", "DeferredLogits", "Watch", "accelerate"]  # a literal, for type checkers

if TYPE_CHECKING:
    from xent.integrations.transformers._accelerate import Acceleration, accelerate
    from xent.integrations.transformers._deferred_logits import DeferredLogits
    from xent.integrations.transformers._watch_callback import Watch


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
