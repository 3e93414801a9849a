"""Log-probabilities of target tokens and of the most likely classes on the Triton kernels, differentiable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.head import HeadRows
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.problem_tensors import tensors_of, with_tensors
from xent.ops.triton.casts import outside_autocast, with_casts
from xent.problem import Rows
from xent.row_stats import TokenLogprobs


def rows(problem: Rows | HeadRows, with_entropy: bool, top: int) -> TokenLogprobs:
    """Ln p(target) of every row, on request the entropy and the `top` most likely classes."""
    problem = with_casts(problem) if isinstance(problem, HeadRows) else problem
    shape = problem.target.shape
    log_p, entropy, index = _Logprobs.apply(*tensors_of(problem), problem, with_entropy, top)
    return TokenLogprobs(
        logprob=log_p[:, 0].reshape(shape),
        entropy=entropy.view(shape) if with_entropy else None,
        top_indices=index[:, 1:].reshape(*shape, top) if top else None,
        top_logprobs=log_p[:, 1:].reshape(*shape, top) if top else None,
    )


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        from xent.backends.triton import token_logprobs as kernel

        problem, with_entropy, top = inputs[-3:]
        scores = kernel.forward(problem, with_entropy, top)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(scores.index)
        ctx.saved = scores.values.saved
        ctx.problem = replace(with_tensors(problem, (None, None, None)), target=None)
        ctx.save_for_backward(*tensors_of(problem), problem.target, scores.index)
        entropy = scores.values.entropy
        entropy = torch.zeros_like(scores.values.loss) if entropy is None else entropy
        return scores.log_p, entropy, scores.index

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        from xent.backends.triton import token_logprobs as kernel

        of_log_p, of_entropy = gradients[:2]
        if of_log_p is None and of_entropy is None:
            return (None,) * 6
        *tensors, target, index = ctx.saved_tensors
        problem = replace(with_tensors(ctx.problem, tensors), target=target)
        needs = tuple(ctx.needs_input_grad[:3])
        if not kernels_may_run(of_log_p, of_entropy):
            return *_of_reference(problem, tensors, index, needs, (of_log_p, of_entropy)), None, None, None
        return *kernel.gradients(problem, (index, ctx.saved), of_log_p, of_entropy, needs), None, None, None


def _of_reference(
    problem: Rows | HeadRows, tensors: Any, index: Tensor, needs: Any, upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    def formula(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = with_tensors(problem, tensors)
        log_p, entropy = reference.token_logprobs.at(given, index.view(*problem.target.shape, index.shape[1]))
        return log_p.reshape(index.shape), entropy.reshape(-1)

    return reference_gradient(formula, tensors, needs, upstream)
