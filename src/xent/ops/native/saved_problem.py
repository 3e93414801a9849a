"""A cross-entropy between its forward and its backward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xent.backends.native import cross_entropy as kernel
from xent.problem import Rows
from xent.terms import LossTerms


def tensors_of(problem: Rows) -> tuple[Tensor | None, ...]:
    """The tensors that derivatives may be taken with respect to, in the order of the functions' inputs."""
    return problem.logits, problem.target, problem.terms.weight, problem.terms.row_weight, problem.probabilities


def with_tensors(tensors: tuple[Tensor, ...], terms: LossTerms) -> Rows:
    """A problem of these tensors."""
    logits, target, weight, row_weight, probabilities = tensors
    return Rows(logits, target, terms.with_weights(weight, row_weight), probabilities)


def save(ctx: Any, problem: Rows, values: dict[str, Tensor]) -> None:
    """Keep a problem and what the gradient needs of its values for `problem_of`."""
    ctx.set_materialize_grads(False)
    ctx.terms = problem.terms.with_weights(None, None)
    ctx.save_for_backward(
        *tensors_of(problem), values["exact_lse"], values.get("entropy"), values.get("mass"), values["lse_low"]
    )


def problem_of(ctx: Any) -> tuple[Rows, kernel.Saved]:
    """What `save` kept."""
    tensors = ctx.saved_tensors  # read once: activation checkpointing makes them again for it
    return with_tensors(tensors[:5], ctx.terms), kernel.Saved(*tensors[5:])
