"""How wrong a result may be: not more than the plain formula in the same dtype, plus a slack.

The plain formula is `torch.nn.functional.cross_entropy` with the options composed around it, one after another. Its
largest error over a tensor is what any backend is allowed; xent computes half inputs in float32, so the plain formula
does too, and the budget of bfloat16 is that of float32 and one rounding of what is returned in bfloat16.

The slack is `ROUNDINGS`·eps·magnitude, with the magnitude of tests/oracle.py: the plain formula may be exact by luck,
and another order of the same operations is then not wrong. 8 roundings are: the difference z − m, exp, the sum, log,
the products with target, class weight and row weight, the reduction. A blocked log-sum-exp merges its blocks within
them, because each block's factor is at most 1. Where the result is narrower than the statistics, half a unit of the
narrower dtype comes on top; and results below the smallest normal number may be flushed to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle import Figure, Truth

ROUNDINGS = 8
HALF = (torch.float16, torch.bfloat16)


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of losses and statistics."""
    return torch.float32 if dtype in HALF else dtype


def upstream_for(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A grad_output that is not 1, exact in every dtype: 0.75, or 0.5, 0.75, 1, 0.5, … for the rows."""
    if not shape:
        return torch.tensor(0.75, dtype=dtype)
    return (0.5 + 0.25 * (torch.arange(int(np.prod(shape))) % 3)).reshape(shape).to(dtype)


def measured(call: Callable[[], Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss of a call and the gradients of its leaves for `upstream_for`, by the names of the oracle."""
    loss = call()
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads = torch.autograd.grad(
        loss, list(wanted.values()), upstream_for(tuple(loss.shape), loss.dtype), allow_unused=True
    )
    known = {f"grad.{name}": grad for name, grad in zip(wanted, grads, strict=True) if grad is not None}
    return {"loss": loss.detach(), **known}


def leaf(tensor: Tensor | None) -> Tensor | None:
    """The same memory as a leaf of a new graph."""
    if tensor is None or not tensor.is_floating_point():
        return tensor
    return tensor.detach().requires_grad_()


def assert_within_budget(
    truth: Truth,
    got: dict[str, Tensor],
    plain: dict[str, Tensor],
    unit: float,
    skip: tuple[str, ...] = (),
) -> None:
    """Every figure of `got` is as near to the truth as the budget says; `unit` is eps of the arithmetic."""
    for name, value in got.items():
        if name in skip:
            continue
        figure = truth.figures[name]
        assert tuple(value.shape) == figure.value.shape, name
        allowed = _error_of(plain[name], figure) if name in plain else 0.0
        allowed = allowed + ROUNDINGS * unit * figure.magnitude + _narrowing(value.dtype, figure, unit)
        most = torch.finfo(value.dtype).max  # float16 ends at 65504: beyond, the nearest is an infinity
        true = np.where(np.abs(figure.value) > most, np.copysign(np.inf, figure.value), figure.value)
        _compare(name, value.detach().double().numpy(), true, allowed)


@np.errstate(invalid="ignore")
def _error_of(value: Tensor, figure: Figure) -> float:
    """The largest error; where the plain formula is not finite (0·∞ = NaN) it sets no budget."""
    difference = np.abs(value.detach().double().numpy() - figure.value)
    difference = difference[np.isfinite(difference)]
    return float(difference.max()) if difference.size else 0.0


@np.errstate(invalid="ignore")
def _narrowing(dtype: torch.dtype, figure: Figure, unit: float) -> np.ndarray:
    info, arithmetic = torch.finfo(dtype), torch.finfo(torch.float32 if dtype in HALF else dtype)
    rounding = info.eps / 2 * np.abs(figure.value) if info.eps > unit else 0.0 * figure.value
    return rounding + info.smallest_normal * info.eps + 16 * arithmetic.smallest_normal


def _compare(name: str, value: np.ndarray, true: np.ndarray, allowed: np.ndarray) -> None:
    finite = np.isfinite(true)
    np.testing.assert_array_equal(value[~finite], true[~finite], err_msg=f"{name}: infinities and NaN")
    error = np.abs(value[finite] - true[finite])
    excess = ~(error <= np.broadcast_to(allowed, true.shape)[finite])
    assert not excess.any(), (
        f"{name}: {value[finite][excess][:4]} is not {true[finite][excess][:4]}: error {error[excess][:4]}, "
        f"allowed {np.broadcast_to(allowed, true.shape)[finite][excess][:4]}"
    )


def plain_logits(x: Tensor, options: dict[str, Any]) -> Tensor:
    """Scaled and capped logits with the classes last, shifted, in the dtype of the statistics."""
    dim = options.get("dim") if options.get("dim") is not None else min(x.ndim - 1, 1)
    rows, shift = x.movedim(dim, -1).to(stats_dtype(x.dtype)), options.get("shift", 0)
    if shift:
        rows = rows.narrow(-2, 0, rows.shape[-2] - shift)
    z = rows * options.get("logit_scale", 1.0)
    return z if options.get("softcap") is None else options["softcap"] * torch.tanh(z / options["softcap"])


def plain_cross_entropy(x: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
    """The loss as torch users write it by hand, in the dtype of the statistics."""
    options = {"reduction": "mean", "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, **options}
    z, hard, shift = plain_logits(x, options), target.ndim < x.ndim, options.get("shift", 0)
    dim = options.get("dim") if options.get("dim") is not None else min(x.ndim - 1, 1)
    target = target.long() if hard else target.movedim(dim, -1).to(z.dtype)
    row_weight = torch.ones((), dtype=z.dtype) if options.get("row_weight") is None else options["row_weight"]
    row_weight = row_weight.to(z.dtype).expand(target.shape if hard else target.shape[:-1])
    if shift:
        target = target.narrow(-1 if hard else -2, shift, z.shape[-2])
        row_weight = row_weight.narrow(-1, shift, z.shape[-2])
    return _plain_reduced(z, target, row_weight, options, hard)


def _plain_reduced(z: Tensor, target: Tensor, row_weight: Tensor, options: dict[str, Any], hard: bool) -> Tensor:
    class_weight = None if options.get("weight") is None else options["weight"].detach().to(z.dtype)
    ignore, classes = options["ignore_index"], z.shape[-1]
    ce = F.cross_entropy(
        z.reshape(-1, classes),
        target.reshape(-1) if hard else target.reshape(-1, classes),
        class_weight,
        ignore_index=ignore,
        reduction="none",
        label_smoothing=options["label_smoothing"],
    ).reshape(row_weight.shape)
    weight = row_weight
    if hard:
        counted = target != ignore
        own = torch.ones_like(ce) if class_weight is None else class_weight[target.masked_fill(~counted, 0)]
        weight = row_weight * own * counted
    loss = row_weight * ce
    if options["z_loss"]:
        loss = loss + options["z_loss"] * weight * z.logsumexp(-1) ** 2
    if options["reduction"] == "none":
        return loss
    if options["reduction"] == "sum":
        return loss.sum()
    given = options.get("normalizer")
    return loss.sum() / (weight.sum() if given is None else given)
