"""A cell of plain PyTorch that makes a loss by hand, from tensors that the explanation hands out."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.inspection._expressions import Known
from xent.inspection._join import JoinedScores
from xent.inspection._scores import BinaryScores, HeadScores, LogitScores, TableScores
from xent.inspection._term import Term
from xent.report._numbers import number

_LARGEST = 1 << 24  # log-probabilities that are made for the cell, where no tensor holds them


def tensors_of(term: Term) -> dict[str, Tensor]:
    """What the cell reads."""
    found = _scores_tensors(term)
    if term.is_binary:
        found["target"] = term.distributions(torch.arange(term.num_rows))[:, 1].reshape(term.row_shape)
    elif term.target is not None:
        found["target"] = term.target
        if not torch.equal(term.row_ids, torch.arange(term.scores.num_rows)):
            found["rows"] = term.row_ids
    else:
        found["target"] = term.distributions(torch.arange(term.num_rows))
    if not bool(term.counted.all()):
        found["counted"] = term.counted
    for name, value in (("class_weight", term.class_weight), ("row_weight", term.row_weight)):
        if value is not None:
            found[name] = value
    return found


def _scores_tensors(term: Term) -> dict[str, Tensor]:
    scores = term.scores
    if isinstance(scores, BinaryScores):
        return {"logits" if scores.is_logits else "probabilities": scores.input}
    if isinstance(scores, LogitScores) and isinstance(scores.table, Known):
        return {"logits": scores.table.tensor.movedim(scores.class_dim, -1)}
    if isinstance(scores, HeadScores):
        problem = scores.problem
        found = {"hidden": problem.hidden.detach(), "linear_weight": problem.weight.detach()}
        return found if problem.bias is None else {**found, "linear_bias": problem.bias.detach()}
    if not isinstance(scores, (TableScores, LogitScores)):
        return {"log_probs": torch.cat([log_p for _, log_p in scores.blocks()])}
    name = "log_probs" if isinstance(scores, TableScores) else "logits"
    if isinstance(scores.table, Known):
        return {name: scores.table.tensor.movedim(scores.class_dim, -1)}
    return {name: torch.cat([_table_rows(scores, rows) for rows, _ in scores.blocks()])}


def _table_rows(scores: TableScores | LogitScores, rows: Tensor) -> Tensor:
    from xent.inspection._expressions import unravel

    return scores.table.rows(unravel(rows, scores.row_shape), scores.class_dim)


def code_of(term: Term) -> str:
    """The cell; its last line leaves the value in `loss`."""
    lines = [f"# {number(term.value)}: {term.kind}, by hand", "import torch", "", *_log_probabilities(term)]
    lines += _binary(term) if term.is_binary else _rows(term)
    if term.row_weight is not None:
        lines.append("cost = cost * row_weight.double().reshape(-1)")
    return "\n".join([*lines, *_reduced(term)])


def _log_probabilities(term: Term) -> list[str]:
    scores = term.scores
    if isinstance(scores, BinaryScores):
        if scores.is_logits:
            sigmoid = "-torch.log1p((-x.abs()).exp()) + {}.clamp(max=0)"
            return ["x = logits.double().reshape(-1)", f"log_p1 = {sigmoid.format('x')}  # ln σ(x)",
                    f"log_p0 = {sigmoid.format('(-x)')}  # ln (1 − σ(x))"]  # fmt: skip
        return ["p = probabilities.double().reshape(-1)", "log_p1 = p.log().clamp(min=-100)  # torch's bound",
                "log_p0 = (-p).log1p().clamp(min=-100)"]  # fmt: skip
    if isinstance(scores, (TableScores, JoinedScores)):
        return ["log_p = log_probs.double().reshape(-1, log_probs.shape[-1])"]
    lines = []
    if isinstance(scores, HeadScores):
        bias = "" if scores.problem.bias is None else " + linear_bias"
        lines.append(f"logits = hidden @ linear_weight.T{bias}")
        if scores.problem.extra_shape:
            shape = (scores.num_classes, *scores.problem.extra_shape)
            lines.append(f"logits = logits.unflatten(-1, {shape}).movedim({scores.problem.hidden.ndim - 1}, -1)")
    lines.append("z = logits.double().reshape(-1, logits.shape[-1])")
    terms = scores.problem.terms if isinstance(scores, HeadScores) else scores.terms  # type: ignore[attr-defined]
    if terms.logit_scale != 1:
        lines.append(f"z = z * {terms.logit_scale!r}")
    if terms.softcap is not None:
        lines.append(f"z = {terms.softcap!r} * torch.tanh(z / {terms.softcap!r})")
    lines.append("m = z.max(1, keepdim=True).values  # so that exp can't overflow")
    lines.append("lse = m + (z - m).exp().sum(1, keepdim=True).log()  # log-sum-exp")
    return [*lines, "log_p = z - lse"]


def _binary(term: Term) -> list[str]:
    weight = "" if term.class_weight is None else "class_weight[:, 1] * "
    lines = ["t = target.double().reshape(-1)", f"cost = -({weight}t * log_p1 + (1 - t) * log_p0)"]
    return lines if bool(term.counted.all()) else [*lines, "cost = cost.where(counted, 0)  # elements left out"]


def _rows(term: Term) -> list[str]:
    if term.target is None:
        return _soft(term)
    counted = not bool(term.counted.all())
    rows = "rows" if not torch.equal(term.row_ids, torch.arange(term.scores.num_rows)) else "torch.arange(len(target))"
    lines = [f"rows = {rows}"] if rows != "rows" else []
    lines.append("y = target.where(counted, 0)" if counted else "y = target")
    lines.append("cost = -log_p[rows, y]  # −ln p of each target")
    if term.class_weight is not None:
        lines.append("cost = class_weight[y] * cost")
    if term.label_smoothing:
        weighed = "-(log_p * class_weight)[rows]" if term.class_weight is not None else "-log_p[rows]"
        lines.append(f"spread = ({weighed}).mean(1)  # every class alike")
        kept = f"(1 - {term.label_smoothing!r}) * cost + " if term.label_smoothing != 1 else ""
        lines.append(f"cost = {kept}{term.label_smoothing!r} * spread")
    lines += _z_term(term, "class_weight[y] * " if term.class_weight is not None else "")
    if counted:
        lines.append("cost = cost.where(counted, 0)  # ignored rows")
    return lines


def _soft(term: Term) -> list[str]:
    lines = ["q = target.double().reshape(log_p.shape)"]
    if term.label_smoothing:
        lines.append(f"q = (1 - {term.label_smoothing!r}) * q + {term.label_smoothing!r} / q.shape[1]")
    weighed = "class_weight * q" if term.class_weight is not None else "q"
    lines += [f"cost = -({weighed} * log_p).sum(1)", *_z_term(term, "")]
    return lines if bool(term.counted.all()) else [*lines, "cost = cost.where(counted, 0)  # rows left out"]


def _z_term(term: Term, weight: str) -> list[str]:
    if term.z_part is None:
        return []
    terms = term.scores.problem.terms if isinstance(term.scores, HeadScores) else term.scores.terms  # type: ignore[attr-defined]
    return [f"cost = cost + {weight}{terms.z_loss!r} * lse.squeeze(1) ** 2"]


def _reduced(term: Term) -> list[str]:
    times = "" if term.factor == 1 else f" * {term.factor!r}"
    if term.reduction == "none":
        return [f"loss = cost.reshape({term.row_shape}){times}"]
    if term.reduction == "sum":
        return [f"loss = cost.sum(){times}"]
    if term.denominator_words == "Σ weight" and term.class_weight is not None and term.row_weight is None:
        own = "class_weight[y].where(counted, 0)" if not bool(term.counted.all()) else "class_weight[y]"
        return [f"loss = cost.sum() / {own}.sum(){times}"]
    words = term.denominator_words
    comment = "" if words.replace(",", "").replace(".", "").isdigit() else f"  # {words}"
    return [f"loss = cost.sum() / {term.denominator:.17g}{times}{comment}"]
