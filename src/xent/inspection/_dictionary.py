"""An explanation as plain values: JSON, and everything that a page needs to be drawn and moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.inspection._receipt import heading, options_read
from xent.inspection._shown_rows import SHOWN_BLOCK, chosen_rows, row_records
from xent.inspection._term import Term

if TYPE_CHECKING:
    from xent.inspection._explanation import Explanation

FORMAT = 1
_ROWS = 50  # rows that are written; of more, the worst
_CLASSES = 40  # classes of a row that are written; of more, the likeliest, the target, and the rest as one


def dictionary_of(explanation: Explanation) -> dict[str, Any]:
    """The whole explanation."""
    equality = explanation.equality
    return finite({
        "xent_explanation": FORMAT,
        "value": equality.value,
        "derived": equality.derived,
        "shape": list(explanation.shape),
        "dtype": str(equality.dtype).removeprefix("torch."),
        "equality": {
            "holds": equality.holds, "explained": equality.explained, "ulps": equality.ulps,
            "difference": equality.difference, "allowed": equality.allowed, "made_by": equality.made_by,
            "words": str(equality),
        },
        "is_sum": explanation.is_sum,
        "is_linear": explanation.is_linear,
        "terms": [_term(explanation, term) for term in explanation.terms],
        "rests": [{"written": rest.written, "value": rest.value} for rest in explanation.rests],
        "notes": list(explanation.notes),
        "findings": [str(finding) for finding in explanation.findings],
    })  # fmt: skip


def _term(explanation: Explanation, term: Term) -> dict[str, Any]:
    landmarks = explanation.landmarks_of(term)
    few = term.num_rows <= _ROWS
    rows = chosen_rows(term, "first" if few else "worst", _ROWS)
    records = row_records(term, rows, explanation.names)
    if term.scores.normalised:
        parts = rows.split(max(1, SHOWN_BLOCK // max(term.num_classes, 1)))
        classes = [found for part in parts for found in _classes(explanation, term, part)]
        for record, found in zip(records, classes, strict=True):
            record["classes"] = found
    return {
        "heading": heading(term, is_sum=explanation.is_sum),
        "kind": term.kind,
        "read": options_read(term),
        "value": term.value,
        "total": term.total,
        "reduction": term.reduction,
        "factor": term.factor,
        "denominator": term.denominator,
        "denominator_words": term.denominator_words,
        "num_rows": term.num_rows,
        "num_counted": term.num_counted,
        "num_classes": term.num_classes,
        "row_shape": list(term.row_shape),
        "label_smoothing": term.label_smoothing,
        "ignore_index": term.ignore_index,
        "class_weight": term.class_weight is not None,
        "row_weight": term.row_weight is not None,
        "landmarks": None if landmarks is None else landmarks.to_dict(),
        "order": "first" if few else "worst",
        "rows": records,
        "notes": list(term.notes),
    }


def _classes(explanation: Explanation, term: Term, rows: Tensor) -> list[dict[str, Any]]:
    """For each row: classes with ln p, target mass and logit (up to a constant where it is unknown), and the rest."""
    log_p, mass, gradient = term.log_probs(rows), term.mass(rows), term.gradient(rows)
    found = []
    for place, row in enumerate(rows.tolist()):
        own = int(mass[place].argmax())
        shown = _shown_classes(log_p[place], own)
        logits = _logits(term, row, shown, log_p[place])
        rest = torch.ones(term.num_classes, dtype=torch.bool)
        rest[shown] = False
        left = log_p[place][rest]
        found.append({
            "number": shown.tolist(),
            "name": [explanation.names.of_class(number) for number in shown.tolist()],
            "logit": logits.tolist(),
            "log_p": log_p[place][shown].tolist(),
            "p": log_p[place][shown].exp().tolist(),
            "mass": mass[place][shown].tolist(),
            "gradient": gradient[place][shown].tolist(),
            "upstream": float(term.upstream[row]),
            "rest": {
                "count": int(rest.sum()),
                "log_p": float(left.logsumexp(0)) if len(left) else -math.inf,
                "mass": float(mass[place][rest].sum()),
            },
        })  # fmt: skip
    return found


def _shown_classes(log_p: Tensor, own: int) -> Tensor:
    if len(log_p) <= _CLASSES:
        return torch.arange(len(log_p))
    likeliest = log_p.topk(_CLASSES - 1).indices
    return torch.cat([likeliest, torch.tensor([own])]).unique()


def _logits(term: Term, row: int, shown: Tensor, log_p: Tensor) -> Tensor:
    """The logits; log-probabilities, which are logits less a constant, where they can't be read."""
    if term.is_binary:
        log_odds = log_p[1] - log_p[0]
        return torch.stack([torch.zeros_like(log_odds), log_odds])[shown]
    rows = term.row_ids[row].reshape(1)
    one = term.scores.logits_at(rows, shown[:1])
    return log_p[shown] if one is None else log_p[shown] - log_p[shown[0]] + one[0]


def finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
