"""Terms of problems that the graph, or the caller, holds whole: xent's losses and the binary ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from xent.head import HeadRows
from xent.inspection._expressions import Known
from xent.inspection._leaves import Whole
from xent.inspection._linear_parts import is_normalised
from xent.inspection._reduction_words import reduced_like
from xent.inspection._row_sources import Elements
from xent.inspection._scores import BinaryScores, HeadScores, LogitScores, TableScores
from xent.inspection._term import Term
from xent.inspection._whole_problems import weights_of_problem
from xent.problem import Rows


def whole_term(
    leaf: Whole, upstream: Tensor, reduction: str | None = None, tolerance: float = 1e-9, divisor: float | None = None
) -> Term:
    """The term of a leaf whose rows enter the value with the factors `upstream`."""
    if isinstance(leaf.problem, Elements):
        term = _binary(leaf, upstream)
    else:
        term = _of_rows(leaf, upstream) if isinstance(leaf.problem, Rows) else _of_head(leaf, upstream)
    term = _with_own_factors(term, tolerance, 1.0 if divisor is None else divisor)
    return reduced_like(term, reduction, tolerance=tolerance, divisor=divisor)


def _with_own_factors(term: Term, tolerance: float, divisor: float) -> Term:
    """Rows that a mask left out do not count; factors that differ from row to row are row weights."""
    if not divisor:  # the mean of rows that are all left out
        return replace(term, counted=torch.zeros_like(term.counted))
    kept = term.counted & (term.upstream != 0)
    known = term.upstream[kept]
    if not len(known):
        return term
    if bool(((known - known[0]).abs() <= tolerance * known[0].abs()).all()):
        return replace(term, counted=kept, upstream=torch.where(kept, known[0], 0.0))
    own = torch.where(term.counted, term.upstream * divisor, 0.0)

    def weighed(values: Tensor | None) -> Tensor | None:
        return None if values is None else values * own

    return replace(
        term,
        upstream=term.counted.double() / divisor,
        cost=term.cost * own,
        weight=term.weight * own,
        row_weight=own if term.row_weight is None else term.row_weight * own,
        z_part=weighed(term.z_part),
        z_slope=weighed(term.z_slope),
    )


def _of_rows(leaf: Whole, upstream: Tensor) -> Term:
    problem: Rows = leaf.problem
    class_dim = problem.logits.ndim - 1
    if leaf.kind == "nll_loss":
        table = Known(problem.logits)
        scores = TableScores(table, class_dim, normalised=is_normalised(table, class_dim))
    else:
        lse = None if leaf.lse is None else leaf.lse.detach().double().cpu().reshape(-1)
        scores = LogitScores(Known(problem.logits), class_dim, problem.terms, lse)
    return _canonical(leaf, upstream, scores, problem)


def _of_head(leaf: Whole, upstream: Tensor) -> Term:
    problem: HeadRows = leaf.problem
    return _canonical(leaf, upstream, HeadScores(problem, leaf.lse), problem)


def _canonical(
    leaf: Whole, upstream: Tensor, scores: LogitScores | TableScores | HeadScores, problem: Rows | HeadRows
) -> Term:
    terms, cost = problem.terms, leaf.values.detach().reshape(-1)
    shape = scores.row_shape
    rows = torch.arange(len(cost))
    hard = problem.is_hard
    target = problem.target.detach().cpu().reshape(-1) if hard else None
    counted = torch.ones(len(cost), dtype=torch.bool) if target is None else target != terms.ignore_index
    weight = _weights(problem)
    z_part, z_slope = _z_part(terms.z_loss, weight, leaf.lse)
    row_weight = None if terms.row_weight is None else terms.row_weight.detach().double().cpu().reshape(-1)
    plain = terms.weight is None and row_weight is None and z_part is None and not terms.label_smoothing
    surprisal = cost if plain else _surprisal(scores, rows, target, counted, problem)
    same = upstream[counted][0] if bool(counted.any()) else torch.ones((), dtype=torch.float64)
    return Term(
        kind="nll_loss" if leaf.kind == "nll_loss" else "cross_entropy",
        written=f"xent.{leaf.kind}",
        scores=scores,
        row_ids=rows,
        row_shape=shape or (1,),
        target=target,
        probabilities=None if hard else _probabilities(problem),
        counted=counted,
        surprisal=surprisal,
        cost=cost,
        weight=weight,
        upstream=torch.where(counted, upstream, 0.0) if bool((upstream != 0).any()) else same.expand(len(cost)),
        class_weight=None if terms.weight is None else terms.weight.detach().double().cpu(),
        row_weight=row_weight,
        label_smoothing=float(terms.label_smoothing),
        z_part=z_part,
        z_slope=z_slope,
        ignore_index=terms.ignore_index if hard else None,
    )


def _weights(problem: Rows | HeadRows) -> Tensor:
    if isinstance(problem, Rows):
        return weights_of_problem(problem)
    no_logits = torch.zeros(()).expand(*problem.row_shape, 1)
    return weights_of_problem(Rows(no_logits, problem.target, problem.terms))


def _z_part(z_loss: float, weight: Tensor, lse: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if not z_loss or lse is None:
        return None, None
    flat = lse.detach().double().cpu().reshape(-1)
    return z_loss * weight * flat.square(), 2 * z_loss * weight * flat


def _surprisal(
    scores: LogitScores | TableScores | HeadScores,
    rows: Tensor,
    target: Tensor | None,
    counted: Tensor,
    problem: Rows | HeadRows,
) -> Tensor:
    if target is None:
        parts = []
        for some in rows.split(max(1, (1 << 21) // scores.num_classes)):
            log_p, q = scores.log_probs(some), _probabilities(problem)(some)
            parts.append(-(q * log_p.masked_fill((q == 0) & log_p.isinf(), 0)).sum(-1))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
    safe = target.masked_fill(~counted, 0)
    if isinstance(scores, TableScores):
        index = torch.unravel_index(rows, scores.row_shape) if scores.row_shape else ()
        return torch.where(counted, -scores.table.at((*index, safe)), 0.0)
    return torch.where(counted, -scores.log_prob_at(rows, safe), 0.0)


def _probabilities(problem: Rows | HeadRows):
    target = problem.target.detach()

    def of_rows(rows: Tensor) -> Tensor:
        lead = target.shape[:-1]
        index = torch.unravel_index(rows.to(target.device), lead) if lead else ()
        chosen = target[index] if index else target.unsqueeze(0)
        return chosen.double().cpu()

    return of_rows


def _binary(leaf: Whole, upstream: Tensor) -> Term:
    problem: Elements = leaf.problem
    shape = tuple(problem.input.shape)
    cost = leaf.values.detach().reshape(-1)
    t = problem.target.detach().double().cpu().expand(shape).reshape(-1)
    scores = BinaryScores(problem.input, leaf.kind.endswith("logits"))
    hard = bool(((t == 0) | (t == 1)).all())
    positive = None if problem.pos_weight is None else _spread(problem.pos_weight, shape)
    class_weight = None if positive is None else torch.stack([torch.ones_like(positive), positive], -1)
    weight = None if problem.weight is None else _spread(problem.weight, shape)
    plain = class_weight is None and weight is None
    ones = torch.ones(len(cost), dtype=torch.bool)
    return Term(
        kind=leaf.kind,
        written=leaf.kind,
        scores=scores,
        row_ids=torch.arange(len(cost)),
        row_shape=shape or (1,),
        target=t.long() if hard else None,
        probabilities=lambda rows: torch.stack([1 - t[rows], t[rows]], -1),
        counted=ones,
        surprisal=cost if plain else _unweighted(scores, t),
        cost=cost,
        weight=torch.ones(len(cost), dtype=torch.float64),
        upstream=upstream,
        class_weight=class_weight,
        row_weight=weight,
    )


def _spread(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    return weight.detach().double().cpu().expand(shape).reshape(-1)


def _unweighted(scores: BinaryScores, t: Tensor) -> Tensor:
    log_p = scores.log_probs(torch.arange(len(t)))
    return -((1 - t) * log_p[:, 0] + t * log_p[:, 1])
