"""Losses of torch drawn at random: every shape, option and dtype that F.cross_entropy and its relatives take."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ROW_SHAPES = ((), (1,), (7,), (3, 4), (2, 3, 2), (64,))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A call of F.cross_entropy."""

    input: Tensor
    target: Tensor
    options: dict[str, Any]

    def loss(self) -> Tensor:
        return F.cross_entropy(self.input, self.target, **self.options)

    def __str__(self) -> str:
        shown = {name: value if not isinstance(value, Tensor) else "given" for name, value in self.options.items()}
        return f"{tuple(self.input.shape)} {self.input.stride()} {self.input.dtype} {self.target.dtype} {shown}"


def drawn(seed: int) -> Drawn:
    """One call; every choice follows from the seed."""
    choose = Random(seed)
    torch.manual_seed(seed)
    rows, num_classes = choose.choice(ROW_SHAPES), choose.choice((1, 2, 3, 5, 10, 33))
    dtype, soft = choose.choice(DTYPES), choose.random() < 0.3
    shape = (num_classes,) if rows == () else (rows[0], num_classes, *rows[1:])
    scale = choose.choice((0.1, 1.0, 3.0, 30.0))
    input = laid_out(choose, shape, scale).to(dtype).requires_grad_()
    options: dict[str, Any] = {"reduction": choose.choice(("mean", "sum", "none"))}
    if choose.random() < 0.4:
        options["weight"] = torch.rand(num_classes, dtype=torch.float64).to(dtype) + 0.1
    if choose.random() < 0.4:
        options["label_smoothing"] = choose.choice((0.1, 0.5, 1.0))
    if soft:
        class_dim = 0 if rows == () else 1
        target = torch.randn(shape, dtype=torch.float64).softmax(class_dim).to(dtype)
        return Drawn(input, target, options)
    target = torch.randint(num_classes, rows)
    if choose.random() < 0.5:
        options["ignore_index"] = choose.choice((-100, 0, num_classes))
        target = target.masked_fill(torch.rand(rows) < choose.choice((0.2, 0.9)), options["ignore_index"])
    return Drawn(input, target, options)


@dataclass(frozen=True, eq=False)
class DrawnBinary:
    """A call of F.binary_cross_entropy, or of …_with_logits."""

    input: Tensor
    target: Tensor
    with_logits: bool
    options: dict[str, Any]

    def loss(self) -> Tensor:
        if self.with_logits:
            return F.binary_cross_entropy_with_logits(self.input, self.target, **self.options)
        return F.binary_cross_entropy(self.input.sigmoid(), self.target, **self.options)

    def __str__(self) -> str:
        return f"{tuple(self.input.shape)} {self.input.dtype} logits={self.with_logits} {sorted(self.options)}"


def drawn_binary(seed: int) -> DrawnBinary:
    """One call; every choice follows from the seed."""
    choose = Random(seed)
    torch.manual_seed(seed)
    shape, dtype = choose.choice(((), (1,), (5,), (4, 3), (2, 3, 4), (64,))), choose.choice(DTYPES)
    input = (choose.choice((0.1, 1.0, 3.0, 20.0)) * torch.randn(shape, dtype=torch.float64)).to(dtype).requires_grad_()
    target = torch.rand(shape, dtype=torch.float64)
    target = (target.round() if choose.random() < 0.5 else target).to(dtype)
    options: dict[str, Any] = {"reduction": choose.choice(("mean", "sum", "none"))}
    with_logits = choose.random() < 0.6
    for name, asked in (("weight", True), ("pos_weight", with_logits)):
        if asked and choose.random() < 0.4:
            options[name] = torch.rand(shape[-1:], dtype=torch.float64).to(dtype) + 0.1
    return DrawnBinary(input, target, with_logits, options)


def laid_out(choose: Random, shape: tuple[int, ...], scale: float) -> Tensor:
    """Random numbers: contiguous, transposed, every second, or a slice of something larger."""
    layout = choose.choice(("contiguous", "transposed", "strided", "offset"))
    if layout == "transposed":
        return (scale * torch.randn(shape[::-1], dtype=torch.float64)).permute(*reversed(range(len(shape))))
    if layout == "strided":
        return (scale * torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64))[..., ::2]
    if layout == "offset":
        return (scale * torch.randn(*shape[:-1], shape[-1] + 3, dtype=torch.float64))[..., 2:-1]
    return scale * torch.randn(shape, dtype=torch.float64)
