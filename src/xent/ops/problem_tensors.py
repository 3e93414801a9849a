"""The tensors of a problem with logits or without, in the order in which autograd gets them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from xent.head import HeadRows
from xent.problem import Rows


def tensors_of(problem: Rows | HeadRows) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The logits, or hidden states, linear weight and bias."""
    return (problem.logits, None, None) if isinstance(problem, Rows) else (problem.hidden, problem.weight, problem.bias)


def with_tensors(problem: Rows | HeadRows, tensors: Any) -> Rows | HeadRows:
    """The same problem of others."""
    first, weight, bias = tensors
    if isinstance(problem, Rows):
        return replace(problem, logits=first)
    return replace(problem, hidden=first, weight=weight, bias=bias)
