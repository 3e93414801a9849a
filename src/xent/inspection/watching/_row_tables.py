"""Where the loss is: by class, by confidence, in the worst rows, along one text. Read from at most 4096 rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xent.functional._sharded_tensors import is_sharded
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import NotChecked
from xent.inspection.watching._loss_numbers import OF_SHARED_ROWS
from xent.inspection.watching._pictures import picture_of

MOST_ROWS, MOST_ELEMENTS = 4096, 1 << 20  # that one look costs
_WORST, _BINS, _CLASSES, _PIECES, _CONTEXT = 12, 10, 40, 256, 48

Decode = Callable[[list[int]], str]


@dataclass
class Names:
    """How classes and tokens are called.

    Attributes:
        class_names: by class; None where they have no names.
        decode: the text of token ids; None where they are no text.
    """

    class_names: Sequence[str] | None = None
    decode: Decode | None = None

    def of_class(self, number: int) -> str | None:
        """The name of a class; of a token its text."""
        if self.class_names is not None and 0 <= number < len(self.class_names):
            return str(self.class_names[number])
        return self.text([number])

    def text(self, ids: list[int]) -> str | None:
        """Token ids as text; None without a decoder, or where it refuses them."""
        if self.decode is None:
            return None
        try:
            return str(self.decode(ids))
        except Exception:  # the user's function meets ids it was not made for; a text less, no training lost
            return None


@dataclass
class RowTable:
    """Some rows of a loss.

    Attributes:
        rows: their places among all rows.
        target: class of each.
        log_p: ln p of each row's classes (n, C).
        target_shape: of all targets, as the loss saw them.
        targets: all of them, flat.
    """

    rows: Tensor
    target: Tensor
    log_p: Tensor
    target_shape: tuple[int, ...]
    targets: Tensor

    def __post_init__(self) -> None:
        self.nats = -self.log_p.gather(1, self.target.unsqueeze(1)).squeeze(1)
        top = self.log_p.max(1)
        self.confidence, self.prediction = top.values.exp(), top.indices
        self.correct = self.prediction == self.target

    def records(self, names: Names, inputs: Tensor | None, texts: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The records of kinds classes, calibration, worst_rows and tokens, as far as there is something to say."""
        if not len(self.rows):
            return []
        found: list[dict[str, Any] | None]
        found = [self._classes(names), self._calibration(), self._worst(names, inputs, texts)]
        if names.decode is not None and len(self.target_shape) > 1:
            found.append(self._tokens(names))
        return [record for record in found if record is not None]

    def _classes(self, names: Names) -> dict[str, Any]:
        num_classes = self.log_p.shape[1]
        count = torch.bincount(self.target, minlength=num_classes)
        nats = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, self.target, self.nats.double())
        right = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, self.target, self.correct.double())
        present = count.nonzero().squeeze(1)
        shown = present
        if len(present) > _CLASSES:
            frequent = present[count[present].topk(_CLASSES // 2).indices]
            worst = present[(nats[present] / count[present]).topk(_CLASSES // 2).indices]
            shown = torch.cat([frequent, worst]).unique()
        return {
            "kind": "classes",
            "of": num_classes,
            "rows": len(self.rows),
            "classes": [
                {"class": place, "name": names.of_class(place), "loss": total / number, "count": number,
                 "accuracy": hits / number}
                for place, total, number, hits in zip(
                    shown.tolist(), nats[shown].tolist(), count[shown].tolist(), right[shown].tolist(), strict=True
                )
            ],
        }  # fmt: skip

    def _calibration(self) -> dict[str, Any]:
        place = (self.confidence * _BINS).long().clamp_(0, _BINS - 1)
        count = torch.bincount(place, minlength=_BINS)
        sums = torch.zeros(2, _BINS, dtype=torch.float64)
        sums[0].index_add_(0, place, self.confidence.double())
        sums[1].index_add_(0, place, self.correct.double())
        confidence, accuracy = sums / count.clamp(min=1)
        bins = zip(confidence.tolist(), accuracy.tolist(), count.tolist(), strict=True)
        gap = float(((confidence - accuracy).abs() * count).sum()) / len(self.rows)
        return {
            "kind": "calibration",
            "bins": [{"confidence": sure, "accuracy": right, "count": many} for sure, right, many in bins if many],
            "ece": gap,
        }

    def _worst(self, names: Names, inputs: Tensor | None, texts: Sequence[str] | None) -> dict[str, Any]:
        worst = self.nats.nan_to_num(nan=math.inf).topk(min(_WORST, len(self.nats))).indices.tolist()
        rows = [self._row(place, names, inputs) for place in worst]
        if texts is not None:
            rows = [{**row, "text": texts[row["row"]]} for row in rows]
        return {"kind": "worst_rows", "rows": rows}

    def _row(self, place: int, names: Names, inputs: Tensor | None) -> dict[str, Any]:
        row, target, prediction = int(self.rows[place]), int(self.target[place]), int(self.prediction[place])
        return {
            "row": row,
            "target": target,
            "target_name": names.of_class(target),
            "prediction": prediction,
            "prediction_name": names.of_class(prediction),
            "probability": float((-self.nats[place].double()).exp()),
            "loss": float(self.nats[place]),
            "picture": picture_of(inputs, row, self.target_shape),
            "text": self._text_before(row, names),
        }

    def _text_before(self, row: int, names: Names) -> str | None:
        """The tokens before a row in its own text, and the row's own."""
        if names.decode is None or len(self.target_shape) < 2:
            return None
        start = row - row % self.target_shape[-1]
        return names.text(self.targets[max(start, row - _CONTEXT) : row + 1].tolist())

    def _tokens(self, names: Names) -> dict[str, Any] | None:
        own = self.rows < min(self.target_shape[-1], _PIECES)
        pieces = zip(self.target[own].tolist(), self.nats[own].tolist(), strict=True)
        found = [{"text": names.text([token]), "nats": nats} for token, nats in pieces]
        return {"kind": "tokens", "pieces": found} if found else None


def table_of(call: LossCall) -> RowTable | None:
    """Rows of a loss over classes with one target each; None for another one.

    Spread evenly where there are many, but for the first text, which is whole.
    """
    try:
        if call.name in OF_SHARED_ROWS or is_sharded(*call.arguments.values()):  # no rank has all classes
            return None
        if call.is_binary or not isinstance(call.target, Tensor) or not call.has_class_indices:
            return None
        shift = call.option("shift", 0)
        target, scores = call.values_of(call.target), call.values_of(call.input)
        last = scores if call.name == "linear_cross_entropy" else scores.movedim(call.class_dim, -1)
        if shift:
            target, last = target[..., shift:], last[..., :-shift, :]
        return _table(call, target, last)
    except NotChecked:
        return None


def table_of_logits(logits: Tensor, target: Tensor) -> RowTable:
    """Rows of logits (N, C) with targets (N,)."""
    rows = _evenly(len(target), MOST_ROWS)
    return RowTable(
        rows, target[rows].long(), logits[rows].float().log_softmax(1).cpu(), tuple(target.shape), target.reshape(-1)
    )


def _table(call: LossCall, target: Tensor, last: Tensor) -> RowTable | None:
    flat = target.reshape(-1)
    most = max(1, min(MOST_ROWS, MOST_ELEMENTS // max(1, call.num_classes)))
    rows = _evenly(len(flat), most)
    if target.ndim > 1 and len(flat) > most:
        rows = torch.cat([rows, torch.arange(min(target.shape[-1], _PIECES, most))]).unique()
    kept = rows[(flat[rows.to(flat.device)] != call.ignore_index).cpu()]
    there = kept.to(flat.device)
    table = last.reshape(-1, last.shape[-1])[there] if last.ndim > 1 else last.reshape(1, -1)[there]
    return RowTable(kept, flat[there].long().cpu(), _log_p(call, table).cpu(), tuple(target.shape), flat.cpu())


def _log_p(call: LossCall, table: Tensor) -> Tensor:
    if call.name == "nll_loss":
        return table.float()
    if call.name == "linear_cross_entropy":
        weight, bias = call.arguments["linear_weight"].detach(), call.option("linear_bias")
        table = torch.nn.functional.linear(table, weight.to(table.dtype), None if bias is None else bias.detach())
    scores = table.float() * call.option("logit_scale", 1.0)
    cap = call.option("softcap")
    return (scores if cap is None else cap * (scores / cap).tanh()).log_softmax(-1)


def _evenly(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.arange(most) * count // most
