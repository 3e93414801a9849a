"""`check_targets`: whether class indices on a GPU are looked at before a loss uses them."""

from __future__ import annotations

import os

import torch

_OFF = ("", "0", "false", "no", "off")


class _Switch:
    """Whether targets on a GPU are checked, for the whole process."""

    on = os.environ.get("XENT_CHECK", "0").lower() not in _OFF


switch = _Switch()


def check_targets(on: bool = True) -> bool:
    """Have class indices on a GPU checked before every loss, at the price of a wait for the GPU in each call.

    On a CPU they are checked always. On a GPU a class index outside [0, C) makes its row NaN on the Triton backend, and
    nothing outside the logits is read; with the check it raises `TargetRangeError`, which counts and places the bad
    ones. The environment variable XENT_CHECK=1 begins a program with the check on. While a CUDA graph is captured and
    inside `torch.compile` nothing can be read: the check is made at the next call outside.

    Args:
        on: whether to check from now on.

    Returns:
        Whether they were checked before.

    Example:
        >>> import xent
        >>> before = xent.check_targets(True)
        >>> xent.check_targets(before)
        True
    """
    before, switch.on = switch.on, bool(on)
    return before


def may_be_checked(target: torch.Tensor) -> bool:
    """Whether targets on this device may be read: on the CPU for nothing, on a GPU where that was asked for."""
    if target.device.type == "cpu":
        return True
    return switch.on and target.device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
