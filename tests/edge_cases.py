"""The table of edge cases. One list; every backend, dtype and reduction runs all of it.

A test parametrised over `CASES` and `BACKENDS_HERE` covers a new backend without a change: a name enters
`BACKENDS_HERE` as soon as `xent.backend(name)` accepts it. Logits are made per dtype, so that every dtype has its own
subnormals; what a dtype cannot hold is rounded to it, and the oracle reads the rounded tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import xent
from xent.errors import BackendError, OptionError

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
INF, NAN = float("inf"), float("nan")


def _accepted(name: str) -> bool:
    try:
        with xent.backend(name):
            return True
    except (BackendError, OptionError):
        return False


# The Triton column runs this table in tests/triton: its interpreter takes milliseconds for each call of a kernel.
BACKENDS_HERE = tuple(name for name in ("reference", "native") if _accepted(name))


@contextmanager
def running_on(name: str, operation: str, input: Tensor):
    """Run inside on the backend `name`; skip, with the backend's own words, what it refuses."""
    with xent.backend(name):
        try:
            xent.choices(input, operation=operation)
        except BackendError as refused:
            pytest.skip(str(refused))
        yield


@dataclass(frozen=True, eq=False)
class EdgeCase:
    """One problem: logits for a dtype, a target, options.

    Attributes:
        name: what the case is about; its test id.
        logits: dtype → logits, of any layout of memory.
        target: class indices, or probabilities in float64 (cast to the dtype of the logits by `make`).
        options: keyword options of `xent.cross_entropy`; float64 weights are cast as the target is.
        gradient: whether the gradient is a documented number (not where the loss itself is NaN).
    """

    name: str
    logits: Callable[[torch.dtype], Tensor]
    target: Tensor
    options: dict[str, Any] = field(default_factory=dict)
    gradient: bool = True

    def __str__(self) -> str:
        return self.name

    def make(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Input, target and options for one dtype."""
        cast = {k: v.to(dtype) if isinstance(v, Tensor) and v.ndim else v for k, v in self.options.items()}
        target = self.target.to(dtype) if self.target.is_floating_point() else self.target
        return self.logits(dtype), target, cast

    @property
    def hard(self) -> bool:
        """Whether the target is class indices."""
        return not self.target.is_floating_point()


def _given(*rows: Any) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: torch.tensor(rows, dtype=torch.float64).to(dtype)


def _random(*shape: int, seed: int = 0, scale: float = 3.0) -> Callable[[torch.dtype], Tensor]:
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to


def _subnormal(dtype: torch.dtype) -> Tensor:
    step = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return torch.tensor([[step, 0.0, -step], [2 * step, step, 3 * step]], dtype=dtype)


def _probabilities(*shape: int, seed: int = 1, dim: int = 1) -> Tensor:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.softmax(dim)


def _labels(*shape: int, classes: int, seed: int = 2) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def _tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_FOUR_BY_FIVE, _FIVE = _random(4, 5), _labels(4, classes=5)
_SOME_IGNORED = torch.tensor([1, -100, 4, -100])
_BIG = _given([1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [9999.0, 1e4, 1e4])
_MASKED = _given([0.5, -INF, 1.0], [-INF, 2.0, -INF], [1.0, 1.0, 1.0])

CASES = [
    # magnitude of the logits
    EdgeCase("logits of +-1e4", _BIG, torch.tensor([0, 2, 1])),
    EdgeCase("logits of +-1e4, improbable targets", _BIG, torch.tensor([1, 0, 0])),
    EdgeCase("logits of +-1e4, probabilities", _BIG, _probabilities(3, 3)),
    EdgeCase("logits of +-1e4, smoothing", _BIG, torch.tensor([0, 2, 1]), {"label_smoothing": 0.1}),
    EdgeCase("logits of +-1e4, z-loss", _BIG, torch.tensor([0, 2, 1]), {"z_loss": 1e-4}),
    EdgeCase("logits of +-1e4, softcap", _BIG, torch.tensor([0, 2, 1]), {"softcap": 30.0}),
    EdgeCase("logits of +-1e4, temperature", _BIG, torch.tensor([0, 2, 1]), {"logit_scale": 1e-3}),
    EdgeCase("all logits 1e4, shifted softmax", _given([1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]), torch.tensor([0, 2])),
    EdgeCase("subnormal logits", _subnormal, torch.tensor([0, 1])),
    EdgeCase("subnormal logits, softcap", _subnormal, torch.tensor([0, 1]), {"softcap": 1.0}),
    EdgeCase("all-equal rows", _given([0.0] * 4, [7.0] * 4), torch.tensor([0, 3])),
    EdgeCase("all-equal rows, probabilities", _given([0.0] * 4, [7.0] * 4), _probabilities(2, 4)),
    # infinities and NaN
    EdgeCase("-inf entries", _MASKED, torch.tensor([2, 1, 0])),
    EdgeCase("-inf entries, z-loss", _MASKED, torch.tensor([2, 1, 0]), {"z_loss": 0.1}),
    EdgeCase("-inf entries, softcap", _MASKED, torch.tensor([2, 1, 0]), {"softcap": 4.0}),
    EdgeCase("-inf entries, temperature", _MASKED, torch.tensor([2, 1, 0]), {"logit_scale": 2.0}),
    EdgeCase("-inf entries, class weight", _MASKED, torch.tensor([2, 1, 0]), {"weight": _tensor(1.0, 2.0, 0.5)}),
    EdgeCase("-inf at the target", _MASKED, torch.tensor([1, 1, 0])),
    EdgeCase("-inf entries of probability 0", _MASKED, _tensor([0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5])),
    EdgeCase("-inf entry of positive probability", _MASKED, _probabilities(3, 3)),
    EdgeCase("-inf entries, smoothing", _MASKED, torch.tensor([2, 1, 0]), {"label_smoothing": 0.1}),
    EdgeCase("-inf entries, smoothing 1", _MASKED, torch.tensor([1, 1, 0]), {"label_smoothing": 1.0}),
    EdgeCase("-inf entries, probabilities smoothed", _MASKED, _tensor([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]),
             {"label_smoothing": 0.1}),
    EdgeCase("row of -inf", _given([0.0, 1.0], [-INF, -INF]), torch.tensor([0, 1]), gradient=False),
    EdgeCase("row of -inf, probabilities", _given([0.0, 1.0], [-INF, -INF]), _tensor([1.0, 0], [0, 1.0]),
             gradient=False),
    EdgeCase("+inf entry", _given([0.0, INF], [0.0, 1.0]), torch.tensor([1, 0]), gradient=False),
    EdgeCase("+inf entry, other target", _given([0.0, INF], [0.0, 1.0]), torch.tensor([0, 0]), gradient=False),
    EdgeCase("NaN entry", _given([0.0, NAN, 1.0], [0.0, 1.0, 2.0]), torch.tensor([0, 0]), gradient=False),
    EdgeCase("NaN entry, probability 0", _given([0.0, NAN, 1.0]), _tensor([1.0, 0.0, 0.0]).reshape(1, 3),
             gradient=False),
    EdgeCase("NaN entry in an ignored row", _given([0.0, NAN], [0.0, 1.0]), torch.tensor([-100, 0]), gradient=False),
    # size
    EdgeCase("one class", _given([3.0], [-1e4]), torch.tensor([0, 0])),
    EdgeCase("one class, probabilities", _given([3.0], [-1e4]), _tensor([1.0], [1.0])),
    EdgeCase("one class, smoothing", _given([3.0], [-1e4]), torch.tensor([0, 0]), {"label_smoothing": 0.1}),
    EdgeCase("one row", _random(1, 5), torch.tensor([3])),
    EdgeCase("one row, one class", _given([2.0]), torch.tensor([0])),
    EdgeCase("unbatched", _random(5), torch.tensor(3)),
    EdgeCase("unbatched, ignored", _random(5), torch.tensor(-100), gradient=False),
    EdgeCase("unbatched, probabilities", _random(5), _probabilities(5, dim=0)),
    EdgeCase("empty batch", _random(0, 5), torch.empty(0, dtype=torch.int64), gradient=False),
    EdgeCase("empty batch, probabilities", _random(0, 5), _probabilities(0, 5), gradient=False),
    EdgeCase("empty batch, normalizer", _random(0, 5), torch.empty(0, dtype=torch.int64), {"normalizer": 3.0}),
    EdgeCase("empty trailing dimension", _random(2, 5, 0), torch.empty(2, 0, dtype=torch.int64), gradient=False),
    EdgeCase("huge C", _random(2, 50257), torch.tensor([0, 50256])),
    EdgeCase("huge C, probabilities", _random(1, 50257), _probabilities(1, 50257)),
    EdgeCase("prime sizes", _random(7, 131), _labels(7, classes=131)),
    # ignored rows
    EdgeCase("all ignored", _FOUR_BY_FIVE, torch.full((4,), -100), gradient=False),
    EdgeCase("all ignored, normalizer", _FOUR_BY_FIVE, torch.full((4,), -100), {"normalizer": 7}),
    EdgeCase("some ignored", _FOUR_BY_FIVE, _SOME_IGNORED),
    EdgeCase("some ignored, everything else", _FOUR_BY_FIVE, _SOME_IGNORED,
             {"weight": _tensor(1.0, 2.0, 0.0, 0.5, 3.0), "row_weight": _tensor(1.0, 5.0, 0.5, -2.0),
              "label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 8.0, "logit_scale": 0.5}),
    EdgeCase("ignore_index inside the range", _FOUR_BY_FIVE, torch.tensor([1, 0, 4, 1]), {"ignore_index": 1}),
    EdgeCase("ignore_index=0, weights", _FOUR_BY_FIVE, torch.tensor([1, 0, 4, 1]),
             {"ignore_index": 0, "weight": _tensor(9.0, 2.0, 1.0, 0.5, 3.0)}),
    EdgeCase("ignore_index=C", _FOUR_BY_FIVE, torch.tensor([1, 5, 4, 1]), {"ignore_index": 5}),
    EdgeCase("uint8 target 156 is not -100", _random(2, 200), torch.tensor([156, 3], dtype=torch.uint8)),
    *[EdgeCase(f"{str(kind).removeprefix('torch.')} target", _FOUR_BY_FIVE, _FIVE.to(kind)) for kind in INTEGERS],
    *[EdgeCase(f"{str(kind).removeprefix('torch.')} target, ignored", _FOUR_BY_FIVE, _SOME_IGNORED.to(kind))
      for kind in INTEGERS if kind != torch.uint8],
    # probabilities, smoothing and weights
    EdgeCase("probabilities", _FOUR_BY_FIVE, _probabilities(4, 5)),
    EdgeCase("probabilities with zeros", _FOUR_BY_FIVE, torch.eye(5, dtype=torch.float64)[:4]),
    EdgeCase("probabilities that do not sum to 1", _FOUR_BY_FIVE, 3 * _probabilities(4, 5) - 0.2),
    *[EdgeCase(f"smoothing {e}", _FOUR_BY_FIVE, _FIVE, {"label_smoothing": e}) for e in (0.0, 0.1, 1.0)],
    *[EdgeCase(f"probabilities, smoothing {e}", _FOUR_BY_FIVE, _probabilities(4, 5), {"label_smoothing": e})
      for e in (0.0, 0.1, 1.0)],
    EdgeCase("zero class weights", _FOUR_BY_FIVE, _FIVE, {"weight": _tensor(0.0, 1.0, 0.0, 2.0, 1.0)}),
    EdgeCase("zero class weights, smoothing", _FOUR_BY_FIVE, _FIVE,
             {"weight": _tensor(0.0, 1.0, 0.0, 2.0, 1.0), "label_smoothing": 0.1}),
    EdgeCase("all class weights 0", _FOUR_BY_FIVE, _FIVE, {"weight": torch.zeros(5, dtype=torch.float64)},
             gradient=False),
    EdgeCase("class weights, probabilities", _FOUR_BY_FIVE, _probabilities(4, 5),
             {"weight": _tensor(0.0, 1.0, 0.5, 2.0, 1.0)}),
    EdgeCase("negative row weights", _FOUR_BY_FIVE, _FIVE, {"row_weight": _tensor(1.0, -2.0, 0.5, -3.0)}),
    EdgeCase("row weights of 0", _FOUR_BY_FIVE, _FIVE, {"row_weight": _tensor(1.0, 0.0, 0.0, 2.0)}),
    EdgeCase("one row weight for all", _FOUR_BY_FIVE, _FIVE, {"row_weight": torch.tensor(2.5, dtype=torch.float64)}),
    EdgeCase("normalizer number", _FOUR_BY_FIVE, _FIVE, {"normalizer": 12}),
    EdgeCase("normalizer tensor", _FOUR_BY_FIVE, _FIVE, {"normalizer": torch.tensor(12)}),
    # layout
    EdgeCase("(N, C, d1)", _random(2, 5, 3), _labels(2, 3, classes=5)),
    EdgeCase("(N, C, d1, d2)", _random(2, 3, 2, 4), _labels(2, 2, 4, classes=3)),
    EdgeCase("(N, C, d1), probabilities", _random(2, 5, 3), _probabilities(2, 5, 3)),
    EdgeCase("dim=-1", _random(2, 3, 5), _labels(2, 3, classes=5), {"dim": -1}),
    EdgeCase("dim=0", _random(5, 2, 3), _labels(2, 3, classes=5), {"dim": 0}),
    EdgeCase("dim=1", _random(2, 5, 3), _labels(2, 3, classes=5), {"dim": 1}),
    EdgeCase("dim=-1, probabilities", _random(2, 3, 5), _probabilities(2, 3, 5, dim=-1), {"dim": -1}),
    EdgeCase("shift=1", _random(2, 4, 5), _labels(2, 4, classes=5), {"dim": -1, "shift": 1}),
    EdgeCase("shift as long as the sequence", _random(2, 4, 5), _labels(2, 4, classes=5),
             {"dim": -1, "shift": 4, "normalizer": 1}),
    EdgeCase("transposed view", lambda dtype: _random(5, 4)(dtype).t(), _FIVE),
    EdgeCase("transposed (N, T, C) view", lambda dtype: _random(2, 3, 5)(dtype).transpose(1, 2),
             _labels(2, 3, classes=5)),
    EdgeCase("every second column", lambda dtype: _random(4, 10)(dtype)[:, ::2], _FIVE),
    EdgeCase("offset view", lambda dtype: _random(6, 7)(dtype)[1:5, 1:6], _FIVE),
    EdgeCase("rows of stride 0", lambda dtype: _random(1, 5)(dtype).expand(4, 5), _FIVE),
    EdgeCase("classes of stride 0", lambda dtype: _random(4, 1)(dtype).expand(4, 5), _FIVE),
    EdgeCase("target of stride 0", _FOUR_BY_FIVE, torch.tensor([2]).expand(4)),
]  # fmt: skip
FINITE = [case for case in CASES if case.gradient and bool(case.logits(torch.float64).isfinite().all())]
