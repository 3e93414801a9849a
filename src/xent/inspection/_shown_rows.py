"""Rows as a reader sees them: target, logit, p, −ln p, bits, what the row adds, where it pushes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xent.errors import OptionError
from xent.inspection._term import Term
from xent.report import Column, ResultTable
from xent.report._numbers import factor as typed

SHOWN_BLOCK = 1 << 19  # numbers in float64 of rows that are shown, at a time: 4 MiB for each of several tables
ORDERS = ("worst", "best", "first", "random")


def chosen_rows(term: Term, order: str, n: int, seed: int = 0) -> Tensor:
    """Numbers of the rows to show; torch's own random state is neither read nor moved."""
    if order not in ORDERS:
        raise OptionError(f"order={order!r}", f"it is one of {', '.join(map(repr, ORDERS))}", "pass one of these")
    count = min(checked_count(n), term.num_rows)
    if order == "first":
        return torch.arange(count)
    if order == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(term.num_rows, generator=generator)[:count].sort().values
    adds = (term.upstream * term.cost).nan_to_num(nan=torch.inf)
    if order == "best":
        return torch.sort(torch.where(term.counted, adds, torch.inf), stable=True).indices[:count]
    adds = torch.where(term.counted, adds, -torch.inf)
    return torch.sort(adds, descending=True, stable=True).indices[:count]  # stable: the first of equals is first


def checked_count(n: int) -> int:
    """A number of rows to show.

    Raises:
        OptionError: it is none.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise OptionError(f"n={n!r}", "it is a number of rows, 0 or more", "pass such as n=10")
    return n


def texts_of(names: Any, option: str) -> Sequence[str] | None:
    """Names that a caller gave, to be read by number: a sequence, an array or column of them, or a dict by number.

    Raises:
        OptionError: they can't be read so.
    """
    if names is None:
        return None
    if isinstance(names, Mapping):
        return _OfMapping(names)
    if hasattr(names, "tolist"):  # an array, or a column of a frame, whose own index is not the number of the row
        names = names.tolist()
    if not isinstance(names, Sequence) or isinstance(names, (str, bytes)):
        raise OptionError(
            f"{option} is a {type(names).__name__}", "it is a sequence of texts", f"pass {option}=[…], in order"
        )
    return names


class _OfMapping(Sequence[str]):
    """A dict of texts by number, or by number as text, as configurations of models hold it."""

    def __init__(self, names: Mapping[Any, str]) -> None:
        self._names = {int(key): text for key, text in names.items() if str(key).lstrip("-").isdigit()}
        if len(self._names) != len(names):
            raise OptionError("names by text", "they are by number", "turn the dict around: {number: name}")

    def __len__(self) -> int:
        return max(self._names, default=-1) + 1

    def __getitem__(self, number: Any) -> str:
        return self._names.get(number, str(number))


def rows_table(term: Term, rows: Tensor, names: Names, title: str = "") -> ResultTable:
    """The rows as a table."""
    records = row_records(term, rows, names)
    below = []
    hidden = term.num_rows - len(rows)
    if hidden:
        below.append(f"   … {hidden:,} more rows")
    return ResultTable(tuple(records), columns_of(term, records), title, tuple(below))


class Names:
    """Names of classes and rows, where the caller gave some."""

    def __init__(self, classes: Sequence[str] | None = None, rows: Sequence[str] | None = None) -> None:
        self.classes, self.rows = classes, rows

    def of_class(self, number: int) -> str:
        """The name of a class, or its number."""
        if self.classes is None or not 0 <= number < len(self.classes):
            return str(number)
        return str(self.classes[number])

    def of_row(self, number: int) -> str | None:
        """The name of a row, if rows have names."""
        return None if self.rows is None or number >= len(self.rows) else str(self.rows[number])


def row_records(term: Term, rows: Tensor, names: Names) -> list[dict[str, Any]]:
    """A record for each row, of plain values."""
    if not len(rows):
        return []
    records: list[dict[str, Any]] = []
    for some in rows.split(max(1, SHOWN_BLOCK // max(term.num_classes, 1))):
        records.extend(_records(term, some, names))
    return records


def _records(term: Term, rows: Tensor, names: Names) -> list[dict[str, Any]]:
    log_p, distributions = term.log_probs(rows), term.distributions(rows)
    own = torch.ones_like(rows) if term.is_binary else term.labels(rows)
    gradient = term.gradient(rows)
    logits = term.scores.logits_at(term.row_ids[rows], own)
    best = log_p.max(-1)
    picked = log_p.gather(1, own.unsqueeze(1)).squeeze(1)
    records = []
    for place, row in enumerate(rows.tolist()):
        counted, nats = bool(term.counted[row]), float(term.surprisal[row])
        own_class = int(own[place])
        share = float(term.upstream[row] * term.cost[row]) / term.value if term.value else 0.0
        record: dict[str, Any] = {
            "row": row,
            "position": term.position(row),
            "name": names.of_row(row),
            "counted": counted,
            "target": _target(term, row, own_class, distributions[place], names) if counted else "ignored",
            "class": own_class if counted else None,
            "logit": float(logits[place]) if logits is not None and counted else None,
            "p": _probability(term, float(picked[place])) if counted else None,
            "nats": nats if counted else None,
            "bits": nats / math.log(2) if counted else None,
            "weight": float(term.weight[row]),
            "loss": float(term.cost[row]) if counted else 0.0,
            "gradient": float(gradient[place, own_class]) if counted else 0.0,
            "share": share if counted else 0.0,
            "predicted": names.of_class(int(best.indices[place])),
            "predicted_class": int(best.indices[place]),
            "predicted_p": math.exp(float(best.values[place])) if term.scores.normalised else None,
            "right": int(best.indices[place]) == own_class if counted else None,
        }
        records.append(record)
    return records


def _probability(term: Term, log_p: float) -> float | None:
    return math.exp(log_p) if term.scores.normalised else None


def _target(term: Term, row: int, own: int, distribution: Tensor, names: Names) -> str:
    if term.is_binary:
        return f"{int(term.target[row])}" if term.target is not None else typed(float(distribution[1]))
    if term.target is not None:
        return names.of_class(own)
    return f"{names.of_class(own)} at {typed(round(float(distribution[own]), 4))}"


def columns_of(term: Term, records: Sequence[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns that say something about these rows."""
    nats = "−ln p" if term.target is not None else "Σ −q ln p"
    columns = [Column("position", "row", "name"), Column("target", "target", "name", 18)]
    if any(record["logit"] is not None for record in records):
        columns.append(Column("logit", "logit"))
    if term.scores.normalised:
        columns.append(Column("p", "p(1)" if term.is_binary else "p"))
        columns.append(Column("nats", nats))
        columns.append(Column("bits", "bits", "bits"))
    if not term.is_plain and not (term.target is None and _is_bare(term)):
        if any(record["weight"] not in (0.0, 1.0) for record in records):
            columns.append(Column("weight", "weight"))
        columns.append(Column("loss", "loss"))
    elif not term.scores.normalised:
        columns.append(Column("nats", "−input"))
    if term.scores.normalised:
        columns.append(Column("gradient", gradient_header(term)))
    if term.scores.normalised and not term.is_binary:
        columns.append(Column("predicted", "predicted", "text", 18))
    if term.scores.normalised and not term.is_binary and not any(record["name"] for record in records):
        columns.append(Column("predicted_p", "with p"))
    if any(record["name"] for record in records):
        columns.append(Column("name", "context", "text", 30))
    return tuple(columns)


def _is_bare(term: Term) -> bool:
    return term.class_weight is None and term.row_weight is None and not term.label_smoothing and term.z_part is None


def gradient_header(term: Term) -> str:
    """What a gradient is, in words: p − y over the denominator, or the whole derivative."""
    if term.class_weight is not None or term.row_weight is not None or term.label_smoothing or term.z_part is not None:
        return "∂L/∂logit"
    scale = "" if term.factor == 1 else f"·{typed(term.factor)}"
    divided = f"÷{term.denominator:,.6g}" if term.denominator != 1 else ""
    both = " ".join(part for part in (scale, divided) if part)
    return f"p−y ({both})" if both else "p−y"
