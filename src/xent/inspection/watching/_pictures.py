"""An input as a small grey picture, where it looks like one."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_LEAST_SIDE, _LARGEST_SIDE = 5, 32  # pixels; larger pictures are averaged down
_CHANNELS = (1, 3)


def picture_of(inputs: Tensor | None, row: int, target_shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Width, height and pixels 0..255 of one row of the model's input; None where that is no picture.

    Pictures are (N, 1 or 3, H, W), (N, H, W), and (N, side²) without negative numbers; one target for each.
    """
    if inputs is None or len(target_shape) != 1 or inputs.ndim < 2 or len(inputs) != target_shape[0]:
        return None
    grey = _grey(inputs[row].detach().float().cpu())
    if grey is None or not bool(grey.isfinite().all()):
        return None
    if max(grey.shape) > _LARGEST_SIDE:
        shrink = _LARGEST_SIDE / max(grey.shape)
        height, width = (max(1, round(side * shrink)) for side in grey.shape)
        grey = F.adaptive_avg_pool2d(grey.unsqueeze(0), (height, width))[0]
    least, largest = grey.aminmax()
    # Pictures scaled to [0, 1] keep their black and white; normalised ones are stretched over what they hold.
    low, high = (0.0, max(1.0, float(largest))) if float(least) >= 0 else (float(least), float(largest))
    pixels = ((grey - low) * (255 / ((high - low) or 1.0))).round().clamp(0, 255).int()
    return {"width": grey.shape[1], "height": grey.shape[0], "pixels": pixels.flatten().tolist()}


def _grey(one: Tensor) -> Tensor | None:
    if one.ndim == 3 and one.shape[0] in _CHANNELS:
        one = one.mean(0)
    if one.ndim == 1:
        side = math.isqrt(len(one))
        if side * side != len(one) or bool((one < 0).any()):
            return None
        one = one.reshape(side, side)
    return one if one.ndim == 2 and min(one.shape) >= _LEAST_SIDE else None
