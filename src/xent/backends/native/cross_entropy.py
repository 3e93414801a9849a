"""Cross-entropy of logits, row by row: native/losses/cross_entropy.h and cross_entropy_gradient.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xent.backends.native import sparse_cross_entropy
from xent.backends.native.machine import empty_gradient, flat, readable, streams
from xent.problem import Rows

if TYPE_CHECKING:
    from xent.backends.native import _kernels


@dataclass(frozen=True, eq=False)
class Saved:
    """What the gradient needs beside the problem, each (N,)."""

    exact_lse: Tensor
    entropy: Tensor | None = None
    mass: Tensor | None = None
    lse_low: Tensor | None = None


class Both(NamedTuple):
    """Values of every row, what their sum is divided by, and dL/dlogits of that."""

    values: dict[str, Tensor]
    denominator: float
    gradient: Tensor


def forward(problem: Rows, with_stats: bool) -> dict[str, Tensor]:
    """Values of every row, each (N,): loss, weight, exact_lse, lse_low; with_stats: lse, entropy, prediction."""
    from xent.backends.native import _kernels

    if problem.probabilities is not None:
        return sparse_cross_entropy.forward(problem, with_stats)
    count, dtype = problem.logits.shape[:-1].numel(), problem.stats_dtype
    names = ["loss", "weight"]
    if with_stats:
        names += ["lse", "entropy"]
    if not problem.is_hard:
        names.append("mass")
    values = {name: torch.empty(count, dtype=dtype) for name in names}
    for name in ("exact_lse", "lse_low"):
        values[name] = torch.empty(count, dtype=torch.float64)
    if with_stats:
        values["prediction"] = torch.empty(count, dtype=torch.int64)
    bad_row = _kernels.cross_entropy(kernel_problem(problem), values, torch.get_num_threads())
    check_targets(bad_row, problem)
    return values


def forward_and_gradient(problem: Rows, denominator: float | None) -> Both | None:
    """Both passes in one, for the sum of the losses over a denominator: that of their mean if None.

    None where the logits are better read twice, and where the mean's denominator is not known beforehand.
    """
    from xent.backends.native import _kernels

    if not problem.is_hard:
        return None
    made = kernel_problem(problem)
    if not made.is_one_pass():
        return None
    count, bad_row = made.counted_rows()
    check_targets(bad_row, problem)
    rows, dtype = problem.logits.shape[:-1].numel(), problem.stats_dtype
    denominator = float(count) if denominator is None else denominator
    values = {"loss": torch.empty(rows, dtype=dtype)}
    for name in ("exact_lse", "lse_low"):
        values[name] = torch.empty(rows, dtype=torch.float64)
    buffer = empty_gradient(problem.logits)
    per_row = upstream_of_rows(1.0, denominator, problem)
    _kernels.cross_entropy_both(made, values, per_row, buffer, torch.get_num_threads())
    return Both(values, denominator, buffer)


def upstream_of_rows(upstream: float | Tensor, denominator: float, problem: Rows) -> Tensor:
    """The gradient of each row's loss, (N,), from that of their sum over the denominator."""
    one = torch.as_tensor(upstream, dtype=problem.stats_dtype) / denominator
    return one.expand(problem.logits.shape[:-1].numel())


def sum_of_rows(values: Tensor) -> float:
    """The sum of one number per row, in double; the same for any number of threads."""
    from xent.backends.native import _kernels

    return _kernels.sum_of_rows(values, torch.get_num_threads())


def gradient(
    problem: Rows, saved: Saved, loss: Tensor | None, lse: Tensor | None = None, entropy: Tensor | None = None
) -> Tensor:
    """dL/dlogits (*rows, C), from the gradients of the outputs, each (N,)."""
    buffer = empty_gradient(problem.logits)
    write_gradient(problem, saved, buffer, loss, lse, entropy, streaming=streams(buffer))
    return buffer


def write_gradient(
    problem: Rows,
    saved: Saved,
    buffer: Tensor,
    loss: Tensor | None,
    lse: Tensor | None = None,
    entropy: Tensor | None = None,
    *,
    streaming: bool = False,
) -> None:
    """The same into a buffer of the caller's, which may be the logits: a chunk that a matrix product reads next."""
    from xent.backends.native import _kernels

    if problem.probabilities is not None:
        sparse_cross_entropy.write_gradient(problem, saved, buffer, loss, lse, entropy, streaming=streaming)
        return
    loss, lse, entropy = (None if g is None else readable(g) for g in (loss, lse, entropy))
    upstream = _kernels.Upstream(loss, lse, entropy, saved.exact_lse, saved.entropy, saved.mass, saved.lse_low)
    _kernels.cross_entropy_gradient(
        kernel_problem(problem), upstream, buffer.detach(), streaming, torch.get_num_threads()
    )


def kernel_problem(problem: Rows) -> _kernels.Problem:
    """The problem as the binding takes it; it holds references to every array."""
    from xent.backends.native import _kernels

    terms, dtype = problem.terms, problem.stats_dtype
    weight = None if terms.weight is None else terms.weight.detach().to(dtype).contiguous()
    target = problem.target.detach()
    made = _kernels.Problem(
        problem.logits.detach(),
        target.reshape(-1) if problem.is_hard else None,
        None if problem.is_hard else target,
        weight,
        flat(terms.row_weight, dtype),
    )
    total = float(problem.num_classes)
    if weight is not None and terms.label_smoothing:
        total = float(weight.sum(dtype=torch.float64))
    made.set_options(
        terms.ignore_index, terms.label_smoothing, terms.z_loss, terms.softcap or 0.0, terms.logit_scale, total
    )
    return made


def check_targets(bad_row: int, problem: Rows) -> None:
    """Raise for a row that a kernel found bad."""
    if bad_row < 0:
        return
    from xent.problem import check_target_range

    check_target_range(problem.target, problem.num_classes, problem.terms.ignore_index)
