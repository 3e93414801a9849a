"""The rows by class, and the rows whose label the model contradicts."""

from __future__ import annotations

import math
from typing import Any

import torch

from xent.errors import NotExplained
from xent.inspection._shown_rows import Names, checked_count
from xent.inspection._term import Term
from xent.report import Column, ResultTable


def _predictions(term: Term) -> dict[str, torch.Tensor]:
    """Per row, in one pass: the likeliest class, its p, the p of the label, the best p of another class."""
    if not term.scores.normalised:
        raise NotExplained("the input is not log-probabilities", "predictions need p", "pass log_softmax(logits)")
    parts = []
    for rows in term.blocks():
        p = term.log_probs(rows).exp()
        own = term.labels(rows)
        best = p.max(-1)
        of_label = p.gather(1, own.unsqueeze(1)).squeeze(1)
        others = p.scatter(1, own.unsqueeze(1), -1.0).max(-1)
        parts.append((own, best.indices, best.values, of_label, others.indices, others.values))
    names = ("label", "predicted", "confidence", "p", "other", "other_p")
    if not parts:
        return {name: torch.zeros(0, dtype=torch.float64) for name in names}
    return {name: torch.cat(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def by_class(term: Term, names: Names) -> ResultTable:
    """Loss, accuracy and calibration of each class that is a label; the last line is all of them."""
    found, counted = _predictions(term), term.counted
    labels = found["label"][counted]
    right, sure = (found["predicted"] == found["label"])[counted], found["confidence"][counted]
    nats = term.surprisal[counted]
    records = [
        _class_record(names.of_class(int(label)), nats[labels == label], right[labels == label], sure[labels == label])
        for label in labels.unique()
    ]
    records.sort(key=lambda record: -record["sum"])
    whole = sum(record["sum"] for record in records)
    for record in records:
        record["share"] = record["sum"] / whole if whole else 0.0
    if len(records) != 1:
        records.append({**_class_record("all", nats, right, sure), "share": 1.0 if records else 0.0})
    columns = (
        Column("class", "class", "name", 24), Column("rows", "rows", "integer"), Column("nats", "mean −ln p"),
        Column("share", "share of loss", "percent"), Column("accuracy", "accuracy", "percent"),
        Column("confidence", "confidence", "percent"), Column("gap", "confidence − accuracy", "percent"),
    )  # fmt: skip
    return ResultTable(tuple(records), columns, f"by class · {len(labels):,} rows")


def _class_record(name: str, nats: torch.Tensor, right: torch.Tensor, sure: torch.Tensor) -> dict[str, Any]:
    count = len(nats)
    mean = (lambda values: float(values.double().sum()) / count) if count else (lambda values: math.nan)
    accuracy, confidence = mean(right), mean(sure)
    return {
        "class": name, "rows": count, "nats": mean(nats), "sum": float(nats.sum()), "accuracy": accuracy,
        "confidence": confidence, "gap": confidence - accuracy,
    }  # fmt: skip


def suspects(term: Term, names: Names, n: int) -> ResultTable:
    """Rows by margin p(label) − p(best other class), the smallest first: the label, or the model, is wrong there.

    Self-confidence and margin are those of confident learning (Northcutt, Jiang, Chuang, https://arxiv.org/abs/1911.00068).
    """
    checked_count(n)
    found = _predictions(term)
    margin = torch.where(term.counted, found["p"] - found["other_p"], torch.inf)
    order = torch.sort(margin, stable=True).indices[: min(n, term.num_counted)].tolist()
    records = [
        {
            "row": row,
            "position": term.position(row),
            "label": names.of_class(int(found["label"][row])),
            "p": float(found["p"][row]),
            "other": names.of_class(int(found["other"][row])),
            "other_p": float(found["other_p"][row]),
            "margin": float(margin[row]),
            "nats": float(term.surprisal[row]),
            "name": names.of_row(row),
        }
        for row in order
    ]
    columns = [
        Column("position", "row", "name"), Column("label", "label", "name", 18), Column("p", "p(label)"),
        Column("other", "the model says", "name", 18), Column("other_p", "with p"), Column("margin", "margin"),
        Column("nats", "−ln p"),
    ]  # fmt: skip
    if any(record["name"] for record in records):
        columns.append(Column("name", "context", "text", 30))
    disagree = int((margin < 0).sum())
    title = f"suspects · {disagree:,} of {term.num_counted:,} labels are contradicted"
    return ResultTable(tuple(records), tuple(columns), title)
