"""`LossTerms`: the options of a loss as one frozen object, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypedDict

import torch
from torch import Tensor

from xent.errors import DtypeError, OptionError

REDUCTIONS = ("none", "mean", "sum")
_NUMBERS = ("ignore_index", "label_smoothing", "z_loss", "logit_scale", "softcap", "normalizer")


class LossOptions(TypedDict, total=False):
    """The keyword options that every loss with rows shares, for type checkers."""

    ignore_index: int
    reduction: str
    label_smoothing: float
    row_weight: Tensor | None
    z_loss: float
    softcap: float | None
    logit_scale: float
    normalizer: float | Tensor | None
    dim: int | None
    shift: int


@dataclass(frozen=True, eq=False, kw_only=True)
class LossTerms:
    """Everything that turns rows of logits and targets into one loss, except the tensors themselves.

    Attributes:
        ignore_index: rows with this target count neither in the sum nor in the mean's denominator.
        label_smoothing: ε; the target becomes (1 − ε)·target + ε/C.
        weight: class weight, shape (C,).
        row_weight: weight of each prediction, broadcastable to the shape of the rows.
        z_loss: ζ; adds ζ·logsumexp² to every counted row (PaLM, https://arxiv.org/abs/2204.02311, section 5).
        softcap: c; logits become c·tanh(logits / c), after the scale (Gemma 2, https://arxiv.org/abs/2408.00118).
        logit_scale: factor on the logits; the inverse of a temperature.
        reduction: "none", "mean" or "sum".
        normalizer: divides the sum in the place of the mean's own denominator, such as the global token count.

    Raises:
        OptionError: a value outside its range, or a normalizer without reduction="mean".
        DtypeError: a value of the wrong type.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    weight: Tensor | None = None
    row_weight: Tensor | None = None
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: str = "mean"
    normalizer: float | Tensor | None = None

    def __post_init__(self) -> None:
        _check_integer("ignore_index", self.ignore_index)
        _check_number("label_smoothing", self.label_smoothing, "between 0 and 1", lambda x: 0 <= x <= 1)
        _check_number("z_loss", self.z_loss, "finite and not negative", lambda x: 0 <= x < float("inf"))
        _check_number("logit_scale", self.logit_scale, "finite", lambda x: abs(x) < float("inf"))
        if self.softcap is not None:
            _check_number("softcap", self.softcap, "positive and finite, or None", lambda x: 0 < x < float("inf"))
        _check_tensor("weight", self.weight)
        _check_tensor("row_weight", self.row_weight)
        if self.reduction not in REDUCTIONS:
            raise OptionError(
                f"reduction={self.reduction!r}", "it is one of 'none', 'mean', 'sum'", "pass one of these three"
            )
        self._check_normalizer()
        self._take_plain_numbers()

    def _take_plain_numbers(self) -> None:
        """Python's own in the place of numpy's, fractions and others, which not every backend can compute with."""
        for name in _NUMBERS:
            value = getattr(self, name)
            if type(value) not in (int, float) and isinstance(value, Real):
                object.__setattr__(self, name, int(value) if isinstance(value, Integral) else float(value))

    def with_weights(self, weight: Tensor | None, row_weight: Tensor | None) -> LossTerms:
        """The same options with other weights; this object where nothing changes, for a new one checks every option.

        torch.compile can't trace `dataclasses.replace`.
        """
        if weight is self.weight and row_weight is self.row_weight:
            return self
        return LossTerms(
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            weight=weight,
            row_weight=row_weight,
            z_loss=self.z_loss,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
            reduction=self.reduction,
            normalizer=self.normalizer,
        )

    def z_part(self, weight: Tensor, lse: Tensor) -> Tensor:
        """The z-term of each row, weight · ζ · lse²; 0 without one, even where lse² overflows."""
        return self.z_loss * weight * lse.square() if self.z_loss else torch.zeros_like(lse)

    def _check_normalizer(self) -> None:
        if self.normalizer is None:
            return
        if self.reduction != "mean":
            raise OptionError(
                f"normalizer with reduction={self.reduction!r}",
                "a normalizer replaces the denominator of the mean",
                "pass reduction='mean', or divide the result yourself",
            )
        if isinstance(self.normalizer, Tensor):
            if self.normalizer.is_complex():
                raise DtypeError(f"normalizer has dtype {self.normalizer.dtype}", "it is real", "pass normalizer.real")
            if self.normalizer.numel() != 1:
                raise OptionError(
                    f"normalizer of shape {tuple(self.normalizer.shape)}", "it is one number", "pass its sum"
                )
            return
        _check_number("normalizer", self.normalizer, "positive", lambda x: x > 0)


def _check_number(name: str, value: object, need: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise DtypeError(f"{name} is {_kind(value)}", f"it is a number, {need}", f"pass float({name})")
    if not holds(float(value)):
        raise OptionError(f"{name}={value}", f"it must be {need}", "pass such a value")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise DtypeError(f"{name} is {_kind(value)}", "it is an integer", f"pass int({name})")
    if not -(2**63) <= value < 2**63:  # pyright: ignore[reportOperatorIssue]
        raise OptionError(
            f"{name}={value}",
            "targets are 64-bit integers, from -2**63 to 2**63 - 1",
            "pass one of these, such as -100",
        )


def _check_tensor(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name} is {_kind(value)}", "it is a tensor or None", f"pass torch.tensor({name})")
    if not value.is_floating_point():
        raise DtypeError(f"{name} has dtype {value.dtype}", "weights are floating point", f"pass {name}.float()")


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
