"""What is under test: each function of xent, torch's function of the same name, and the dtypes torch lists for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xent

HALF = (torch.float16, torch.bfloat16)
FLOATING = (*HALF, torch.float32, torch.float64)
INTEGRAL = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)


@dataclass(frozen=True)
class Subject:
    """A function of xent and the entries of torch's sample database that it is held against.

    `entries` maps (name, variant) of an entry to the dtypes that the entry lists for the CPU.
    """

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Tensor]
    entries: dict[tuple[str, str], tuple[torch.dtype, ...]]

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Every dtype that any entry lists."""
        return tuple(dict.fromkeys(dtype for dtypes in self.entries.values() for dtype in dtypes))


def minus_cross_entropy(
    input: Tensor, target: Tensor, *, linear_weight: Tensor | None = None, dim: int, **options: Any
) -> Tensor:
    """What `token_logprobs` is in torch's functions; `dim` is where torch looks for the classes anyway."""
    del dim
    if linear_weight is None:
        return -F.cross_entropy(input, target, reduction="none", **options)
    return -F.linear_cross_entropy(input, linear_weight, target, reduction="none", **options)


CROSS_ENTROPY = {("nn.functional.cross_entropy", ""): FLOATING}
LINEAR = {("nn.functional.linear_cross_entropy", variant): FLOATING for variant in ("", "chunked", "chunked_none")}

SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("cross_entropy", xent.cross_entropy, F.cross_entropy, CROSS_ENTROPY),
        Subject("linear_cross_entropy", xent.linear_cross_entropy, F.linear_cross_entropy, LINEAR),
        Subject("nll_loss", xent.nll_loss, F.nll_loss, {("nn.functional.nll_loss", ""): FLOATING}),
        Subject(
            "binary_cross_entropy",
            xent.binary_cross_entropy,
            F.binary_cross_entropy,
            {("nn.functional.binary_cross_entropy", ""): FLOATING},
        ),
        Subject(
            "binary_cross_entropy_with_logits",
            xent.binary_cross_entropy_with_logits,
            F.binary_cross_entropy_with_logits,
            {("nn.functional.binary_cross_entropy_with_logits", ""): FLOATING},
        ),
        Subject(
            "log_softmax",
            xent.log_softmax,
            F.log_softmax,
            {
                ("log_softmax", ""): FLOATING,
                ("log_softmax", "with_dtype"): (*FLOATING, *INTEGRAL, torch.complex32, *COMPLEX),
            },
        ),
        Subject("logsumexp", xent.logsumexp, torch.logsumexp, {("logsumexp", ""): (*FLOATING, *INTEGRAL, *COMPLEX)}),
        Subject("token_logprobs", xent.token_logprobs, minus_cross_entropy, {**CROSS_ENTROPY, **LINEAR}),
    )
}
