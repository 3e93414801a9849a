"""Negative log likelihood on the kernels, differentiable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import nll_loss as kernel
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.problem import Rows
from xent.terms import LossTerms


def rows(problem: Rows) -> tuple[Tensor, Tensor]:
    """Loss and weight of every row, each (*rows)."""
    terms, shape = problem.terms, problem.logits.shape[:-1]
    loss, weight = _Rows.apply(problem.logits, problem.target, terms.weight, terms.row_weight, terms)
    return loss.view(shape), weight.view(shape)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, row_weight: Tensor | None, terms: LossTerms
    ) -> tuple[Tensor, Tensor]:
        loss, row_totals = kernel.forward(Rows(logits, target, terms))
        ctx.set_materialize_grads(False)
        ctx.terms = replace(terms, weight=None, row_weight=None)
        ctx.save_for_backward(logits, target, weight, row_weight)
        if not (ctx.needs_input_grad[2] or ctx.needs_input_grad[3]):
            ctx.mark_non_differentiable(row_totals)
        return loss, row_totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in gradients):
            return (None,) * 5
        logits, target, weight, row_weight = ctx.saved_tensors
        g_loss = gradients[0]
        if g_loss is not None and not any(ctx.needs_input_grad[1:]) and kernels_may_run(*gradients):
            problem = Rows(logits, target, replace(ctx.terms, weight=weight, row_weight=row_weight))
            return kernel.gradient(problem, g_loss), None, None, None, None

        def again(logits: Tensor, target: Tensor, weight: Tensor | None, row_weight: Tensor | None) -> list[Tensor]:
            terms = replace(ctx.terms, weight=weight, row_weight=row_weight)
            return [value.flatten() for value in reference.nll_loss.rows(Rows(logits, target, terms))]

        return *reference_gradient(again, ctx.saved_tensors, ctx.needs_input_grad[:4], gradients), None
