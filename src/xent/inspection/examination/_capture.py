"""What is observed while a doctor is at work: loss functions, backward, optimizers, clipping, gradient scaling.

Only functions are replaced that a program calls a few times a step. A wrapper gives what the function gives: the same
tensor, the same exception. It does nothing under `torch.compile` (which traces through to the original) nor in forked
children. With the last doctor, everything is given back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from xent.inspection.examination import _observed_losses, _observed_reductions, _observed_training, _sessions
from xent.inspection.examination._patches import Patches
from xent.inspection.examination._session import Session

_LOSSES = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
)
_patches: Patches | None = None
_hooks: list[Any] = []


def begin(session: Session) -> None:
    """Let a session see every event from here on."""
    global _patches
    with _sessions.lock:
        if _sessions.add(session):
            _patches = _prepared()
            _patches.apply()
            _hooks.append(register_optimizer_step_pre_hook(_observed_training.before_step))
            _hooks.append(register_optimizer_step_post_hook(_observed_training.after_step))


def end(session: Session) -> None:
    """The session sees no more."""
    global _patches
    with _sessions.lock:
        if _sessions.remove(session) and _patches is not None:
            for hook in _hooks:
                hook.remove()
            _hooks.clear()
            _patches.undo()
            _patches = None


def _prepared() -> Patches:
    import xent.functional

    patches = Patches()
    for name in _LOSSES:
        patches.function(F, name, _observed_losses.observed(name, "torch"))
        patches.function(xent.functional, name, _observed_losses.observed(name, "xent"))
    for name in ("mean", "sum"):
        patches.inherited(torch.Tensor, name, _observed_reductions.observed)
    patches.inherited(torch.Tensor, "__setitem__", _observed_reductions.observed_write)
    training = _observed_training
    patches.method(torch.Tensor, "backward", training.observed_tensor_backward)
    patches.function(torch.autograd, "backward", training.observed_backward)
    patches.function(torch.autograd, "grad", training.observed_grad)
    patches.function(torch.nn.utils, "clip_grad_norm_", training.observed_clip)
    patches.function(torch.nn.utils, "clip_grad_value_", training.observed_clip)
    patches.method(Optimizer, "__init__", training.observed_optimizer)
    patches.method(Optimizer, "zero_grad", training.observed_zero_grad)
    patches.method(Module, "zero_grad", training.observed_module_zero_grad)
    patches.method(torch.amp.GradScaler, "unscale_", training.observed_scaler("unscale"))
    patches.method(torch.amp.GradScaler, "step", training.observed_scaler("scaler_step"))
    return patches
