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
