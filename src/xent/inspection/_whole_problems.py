"""Rows of a problem of xent, derived anew: by the reference formula in float64, or by a kernel where they are many."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from xent.backends import native, reference
from xent.problem import Rows

_SMALL = 1 << 22  # logits; the reference in float64 holds several copies of them


class DerivedRows(NamedTuple):
    """Loss and log-sum-exp of every row, flat, float64."""

    loss: Tensor
    lse: Tensor


def rows_of_problem(problem: Rows, lse: Tensor | None = None) -> DerivedRows:
    """Loss of every row of a cross-entropy; `lse` is a log-sum-exp that is known already."""
    if problem.logits.numel() <= _SMALL:
        made = in_float64(problem)
        loss, _ = reference.cross_entropy.rows(made)
        exact = reference.cross_entropy.scaled_logits(made.logits, made.terms, torch.float64).logsumexp(-1)
        return DerivedRows(loss.reshape(-1), exact.reshape(-1))
    if lse is not None and problem.is_hard and not problem.terms.label_smoothing:
        return _of_log_sum_exp(problem, lse)
    if _kernels_can_read(problem.logits):
        from xent.backends.native import cross_entropy as kernel

        values = kernel.forward(problem, with_stats=False)
        return DerivedRows(values["loss"].double(), values["exact_lse"] if lse is None else lse)
    return _in_blocks(problem)


def _kernels_can_read(logits: Tensor) -> bool:
    return (
        logits.device.type == "cpu"
        and native.refusal("cross_entropy", logits) is None
        and native.reason_against_memory(logits) is None
    )


def _of_log_sum_exp(problem: Rows, lse: Tensor) -> DerivedRows:
    """Class indices without smoothing need one logit of each row: weight · (logsumexp − z_y + ζ · logsumexp²)."""
    weight, terms = weights_of_problem(problem), problem.terms
    counted = (problem.target != terms.ignore_index).reshape(-1).cpu()
    safe = problem.target.masked_fill(problem.target == terms.ignore_index, 0)
    picked = problem.logits.detach().gather(-1, safe.unsqueeze(-1)).double().cpu().reshape(-1)
    z = reference.cross_entropy.scaled_logits(picked, terms, torch.float64)
    exact = lse.detach().double().cpu().reshape(-1)
    loss = weight * (exact - z + terms.z_loss * exact.square())
    return DerivedRows(torch.where(counted, loss, 0.0), exact)


def weights_of_problem(problem: Rows) -> Tensor:
    """What each row adds to the mean's denominator, flat, float64."""
    terms, shape = problem.terms, problem.logits.shape[:-1]
    weight = torch.ones(shape, dtype=torch.float64)
    if problem.is_hard:
        counted = (problem.target != terms.ignore_index).cpu()
        if terms.weight is not None:
            safe = problem.target.cpu().masked_fill(~counted, 0)
            weight = terms.weight.detach().double().cpu()[safe]
        weight = weight.masked_fill(~counted, 0)
    if terms.row_weight is not None:
        weight = weight * terms.row_weight.detach().double().cpu()
    return weight.reshape(-1)


def in_float64(problem: Rows) -> Rows:
    """The same problem, a copy in float64 without a graph."""
    terms = problem.terms
    double = {
        name: None if value is None else value.detach().double().cpu()
        for name, value in (("weight", terms.weight), ("row_weight", terms.row_weight))
    }
    target = problem.target.detach().cpu()
    target = target if problem.is_hard else target.double()
    return Rows(problem.logits.detach().double().cpu(), target, replace(terms, **double, normalizer=None))


def _in_blocks(problem: Rows) -> DerivedRows:
    rows, classes = problem.logits.shape[:-1], problem.num_classes
    numbers = torch.arange(rows.numel()).split(max(1, (1 << 21) // classes))
    parts = [rows_of_problem(some_rows(problem, part)) for part in numbers]
    return DerivedRows(torch.cat([part.loss for part in parts]), torch.cat([part.lse for part in parts]))


def some_rows(problem: Rows, numbers: Tensor) -> Rows:
    """The problem of the rows with these numbers alone, (n, C)."""
    shape = problem.logits.shape[:-1]
    index = torch.unravel_index(numbers.to(problem.logits.device), shape) if shape else ()
    terms = problem.terms
    if terms.row_weight is not None:
        terms = replace(terms, row_weight=terms.row_weight[index].reshape(-1))
    logits = problem.logits[index].reshape(-1, problem.num_classes)
    target = problem.target[index]
    return Rows(logits, target.reshape(-1) if problem.is_hard else target.reshape(logits.shape), terms)
