"""Errors of gradients against float64, on a sample of rows: all of them would not fit beside the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SAMPLED_LOGITS = 2**22
_CLASSES_AT_ONCE = 8192
_SAMPLED_ROWS = 64


@torch.no_grad()
def loss_gradient_error(
    gradient: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, smoothing: float
) -> float:
    """Largest |g − g64| / (a·p + t) over evenly spaced rows, with g64 = (a·p − t) / denominator of the mean.

    The magnitudes of the two parts are the scale, as p − q of probability targets has zeros that no format meets.

    Args:
        gradient: of the mean loss, (N, C, d1, …).
        logits: (N, C, d1, …).
        target: class indices (N, d1, …), or probabilities of the shape of the logits.
        weight: class weights, (C,).
        smoothing: ε.
    """
    num_classes = logits.shape[1]
    row_shape = (logits.shape[0], *logits.shape[2:])
    num_rows = math.prod(row_shape)
    num_sampled = min(num_rows, max(16, _SAMPLED_LOGITS // num_classes))
    sampled = torch.linspace(0, num_rows - 1, num_sampled).long()
    at = torch.unravel_index(sampled, row_shape)
    p = logits.movedim(1, -1)[at].double().softmax(-1)
    w = torch.ones(num_classes, dtype=torch.float64) if weight is None else weight.double()
    if target.is_floating_point():
        q, denominator = target.movedim(1, -1)[at].double(), float(num_rows)
    else:
        q = torch.nn.functional.one_hot(target[at], num_classes).double()
        denominator = float(w[target].sum())
    t = w * ((1 - smoothing) * q + smoothing / num_classes)
    a = t.sum(-1, keepdim=True)
    truth = (a * p - t) / denominator
    scale = (a * p + t) / denominator
    error = (gradient.movedim(1, -1)[at].double() - truth).abs()
    return float((error / scale.clamp_min(1e-300)).max())


@torch.no_grad()
def linear_gradient_error(
    input_gradient: Tensor, weight_gradient: Tensor, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor
) -> float:
    """The larger of the relative errors (Frobenius) of 64 rows of each gradient against float64.

    Ignored targets are −100. The logits exist in float64 for a few thousand classes at a time.
    """
    counted = target_N >= 0
    hidden_ND = hidden_ND.double()
    lse_N = torch.full_like(hidden_ND[:, 0], -math.inf)
    for weight_chunk in weight_VD.split(_CLASSES_AT_ONCE):
        lse_N = torch.logaddexp(lse_N, (hidden_ND @ weight_chunk.double().T).logsumexp(1))
    rows = counted.nonzero()[:_SAMPLED_ROWS, 0]
    classes = torch.cat([target_N[rows], torch.arange(0, weight_VD.shape[0], -(-weight_VD.shape[0] // 32))]).unique()
    expected_rows = torch.zeros(len(rows), hidden_ND.shape[1], dtype=torch.float64)
    for start, weight_chunk in zip(
        range(0, weight_VD.shape[0], _CLASSES_AT_ONCE), weight_VD.split(_CLASSES_AT_ONCE), strict=True
    ):
        chunk = weight_chunk.double()
        classes_here = torch.arange(start, start + len(chunk))
        p = (hidden_ND[rows] @ chunk.T - lse_N[rows, None]).exp()
        expected_rows += (p - (target_N[rows, None] == classes_here).double()) @ chunk
    p = (hidden_ND @ weight_VD[classes].double().T - lse_N[:, None]).exp()
    difference = (p - (target_N[:, None] == classes).double()) * counted[:, None]
    expected_classes = difference.T @ hidden_ND
    denominator = counted.sum()
    return max(
        _relative_error(input_gradient[rows], expected_rows / denominator),
        _relative_error(weight_gradient[classes], expected_classes / denominator),
    )


def _relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())
