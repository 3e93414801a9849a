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
        ctx.mark_non_differentiable(row_totals)
        return loss, row_totals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        g_loss = gradients[0]
        if g_loss is None:
            return (None,) * 5
        logits, target, weight, row_weight = ctx.saved_tensors
        problem = Rows(logits, target, replace(ctx.terms, weight=weight, row_weight=row_weight))
        if kernels_may_run(g_loss):
            return kernel.gradient(problem, g_loss), None, None, None, None
        return reference_gradient(lambda: (_loss_again(problem),), logits, (g_loss,)), None, None, None, None


def _loss_again(problem: Rows) -> Tensor:
    return reference.nll_loss.rows(problem)[0].flatten()
