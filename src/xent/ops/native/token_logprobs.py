"""Log-probabilities of target tokens and of the most likely classes on the kernels, differentiable.

With upstream gradients g_j of the log-probabilities of a row's classes j, Σ g_j ln p_j is the loss of a sparse target
whose probabilities are −g_j: its gradient is the one asked for, and nothing of rows × classes is made on the way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xent.backends import reference
from xent.backends.native import cross_entropy, linear_cross_entropy
from xent.backends.native.target_entries import scaled
from xent.backends.native.top_classes import top_classes
from xent.head import HeadRows
from xent.ops.native.again import kernels_may_run, reference_gradient
from xent.ops.native.autocast import outside_autocast, with_casts
from xent.ops.problem_tensors import tensors_of, with_tensors
from xent.problem import Rows
from xent.row_stats import TokenLogprobs


def rows(problem: Rows | HeadRows, with_entropy: bool, top: int) -> TokenLogprobs:
    """Ln p(target) of every row, on request the entropy and the `top` most likely classes."""
    problem = with_casts(problem) if isinstance(problem, HeadRows) else problem
    shape = problem.target.shape
    log_p, entropy, index = _Logprobs.apply(*tensors_of(problem), problem, with_entropy, top, torch.is_grad_enabled())
    return TokenLogprobs(
        logprob=log_p[:, 0].reshape(shape),
        entropy=entropy.view(shape) if with_entropy else None,
        top_indices=index[:, 1:].reshape(*shape, top) if top else None,
        top_logprobs=log_p[:, 1:].reshape(*shape, top) if top else None,
    )


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        problem, with_entropy, top, with_gradient = inputs[-4:]
        needs = linear_cross_entropy.Needs(*ctx.needs_input_grad[:3]) if with_gradient else None
        values, best, top_logit = _values(problem, with_entropy, top, needs)
        ignored = (problem.target == problem.terms.ignore_index).reshape(-1)
        target = problem.target.masked_fill(problem.target == problem.terms.ignore_index, -1).reshape(-1, 1)
        best = best.masked_fill(ignored.unsqueeze(1), -1)
        of_top = (top_logit - values["exact_lse"].unsqueeze(1)) - values["lse_low"].unsqueeze(1)
        of_top = of_top.masked_fill(ignored.unsqueeze(1), 0).to(values["loss"].dtype)
        index = torch.cat([target, best], 1)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(index)
        ctx.values = values
        nothing = torch.empty(0)
        ctx.problem = replace(with_tensors(problem, (nothing, nothing, None)), target=nothing.long())
        ctx.save_for_backward(*tensors_of(problem), problem.target, index)
        log_p = torch.cat([-values["loss"].unsqueeze(1), of_top], 1)
        # A copy: what is kept must be neither written over by the caller, nor an output that holds its own node.
        return log_p, values["entropy"].clone() if with_entropy else torch.zeros_like(values["loss"]), index

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        of_log_p, of_entropy = gradients[:2]
        if of_log_p is None and of_entropy is None:
            return (None,) * 7
        *tensors, target, index = ctx.saved_tensors
        problem = replace(with_tensors(ctx.problem, tensors), target=target)
        if not kernels_may_run(of_log_p, of_entropy):
            return *_of_reference(ctx, problem, tensors, index, (of_log_p, of_entropy)), None, None, None, None
        if of_log_p is None:
            of_log_p = torch.zeros(index.shape, dtype=ctx.values["loss"].dtype)
        entries = replace(
            problem,
            target=index.view(*target.shape, index.shape[1]),
            probabilities=-of_log_p.reshape(*target.shape, index.shape[1]),
            terms=replace(problem.terms, ignore_index=-1),  # the caller's may be one of the best classes
        )
        return *_gradients(entries, ctx.values, of_entropy, ctx.needs_input_grad[:3]), None, None, None, None


def _values(
    problem: Rows | HeadRows, with_entropy: bool, top: int, needs: linear_cross_entropy.Needs | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Values of every row by name, its best classes and their z."""
    if isinstance(problem, HeadRows):
        values = linear_cross_entropy.forward(problem, with_stats=with_entropy, top=top, needs=needs)
        best, z = values.top_index, values.top_logit
        named = values.named()
    else:
        named, best, z = cross_entropy.forward(problem, with_stats=with_entropy), None, None
        if top:
            best = top_classes(problem.logits.detach().reshape(-1, problem.num_classes), top, problem.terms)
            x = problem.logits.detach().gather(-1, best.view(*problem.target.shape, top))
            z, _ = scaled(x.reshape(best.shape).double(), problem.terms)
    if best is None or z is None:
        count = len(named["loss"])
        return named, torch.empty(count, 0, dtype=torch.int64), torch.empty(count, 0, dtype=torch.float64)
    return named, best, z


def _gradients(
    entries: Rows | HeadRows, values: dict[str, Tensor], of_entropy: Tensor | None, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    ones = torch.ones_like(values["loss"])
    if isinstance(entries, Rows):
        saved = cross_entropy.Saved(values["exact_lse"], values.get("entropy"), None, values["lse_low"])
        return cross_entropy.gradient(entries, saved, ones, None, of_entropy), None, None
    kept = linear_cross_entropy.Values(
        values["loss"], values["weight"], values["exact_lse"], values["lse_low"], None, values.get("entropy"), None
    )
    upstream = linear_cross_entropy.Upstream(ones, None, of_entropy)
    made = linear_cross_entropy.gradients(entries, kept, upstream, linear_cross_entropy.Needs(*needed))
    hidden = None if made.hidden is None else made.hidden.view(entries.hidden.shape)
    return hidden, made.weight, made.bias


def _of_reference(
    ctx: Any, problem: Rows | HeadRows, tensors: Any, index: Tensor, upstream: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    def formula(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = with_tensors(problem, tensors)
        log_p, entropy = reference.token_logprobs.at(given, index.view(*problem.target.shape, index.shape[1]))
        return log_p.reshape(index.shape), entropy.reshape(-1)

    return reference_gradient(formula, tensors, ctx.needs_input_grad[:3], upstream)
