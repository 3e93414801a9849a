"""A loss call in numbers: the sum of its row losses, what it was divided by, how many were right, and its ruler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xent.distributed._ranks import ranks_of
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import NotChecked

OF_SHARED_ROWS = ("vocab_parallel_cross_entropy", "vocab_parallel_linear_cross_entropy")
MOST_ELEMENTS = 1 << 21  # of logits whose accuracy is counted: an argmax of more would be felt


@dataclass
class LossNumbers:
    """Σ nll, the count that goes with it, and what else one look gives.

    Attributes:
        sum_nll: Σ of the row losses as they were trained, weights and smoothing included.
        count: what makes it a mean: rows that count, or the sum of their weights.
        rows: rows that count.
        num_correct: how many of them the largest logit got right; None where it was not looked.
        num_classes: C; None where there are none.
        label_counts: of each class (C,), or the mean target; None where the targets can't be read.
        smoothing: ε.
        target_entropy: mean entropy of targets that are probabilities; 0 else.
    """

    sum_nll: float
    count: float
    rows: int
    num_correct: int | None = None
    num_classes: int | None = None
    label_counts: Tensor | None = None
    smoothing: float = 0.0
    target_entropy: float = 0.0


def numbers_of(call: LossCall) -> LossNumbers | None:
    """The numbers; None where the loss is not such a sum, or can't be read here."""
    try:
        if not isinstance(call.target, Tensor):  # a SparseTarget
            return None
        target = _shifted(call, call.values_of(call.target))
        loss = call.values_of(call.output) if call.output is not None else None
    except NotChecked:
        return None
    if loss is None:
        return None
    if call.name in OF_SHARED_ROWS:
        return _of_shared_rows(call, loss, target)
    if call.is_binary:
        return _binary(call, loss, target)
    if target.is_floating_point():
        return _of_probabilities(call, loss, target)
    return _of_indices(call, loss, target)


def _shifted(call: LossCall, target: Tensor) -> Tensor:
    """The targets that xent's `shift=` leaves."""
    shift = call.option("shift", 0)
    return target[..., shift:] if shift else target


def _of_indices(call: LossCall, loss: Tensor, target: Tensor) -> LossNumbers:
    flat = target.reshape(-1)
    counted = flat[flat != call.ignore_index]
    found = LossNumbers(0.0, float(len(counted)), len(counted), None, call.num_classes)
    weight = call.option("weight")
    if isinstance(weight, Tensor):
        found.count = float(weight.detach().double()[counted.long()].sum())
    row_weight = call.option("row_weight")
    if isinstance(row_weight, Tensor):
        whole = row_weight.detach().double().expand(call.target.shape)
        rows = _shifted(call, whole).reshape(-1)[flat != call.ignore_index]
        found.count = float((rows * (1.0 if weight is None else weight.detach().double()[counted.long()])).sum())
    found.label_counts = torch.bincount(counted.long(), minlength=call.num_classes)
    found.smoothing = float(call.option("label_smoothing", 0.0) or 0.0)
    found.sum_nll = _sum(call, loss, found.count)
    found.num_correct = _correct(call, target)
    return found


def _of_shared_rows(call: LossCall, loss: Tensor, target: Tensor) -> LossNumbers | None:
    """Of ranks that hold the classes of the same rows together, the first counts these, and the others none."""
    if target.is_floating_point() or any(isinstance(call.option(name), Tensor) for name in ("weight", "row_weight")):
        return None
    count = int((target != call.ignore_index).sum())
    if ranks_of(call.arguments["group"]).rank:
        return LossNumbers(0.0, 0.0, 0)
    return LossNumbers(_sum(call, loss, float(count)), float(count), count)


def _of_probabilities(call: LossCall, loss: Tensor, target: Tensor) -> LossNumbers:
    last = target.movedim(call.class_dim if target.ndim == len(call.shape) else -1, -1)
    rows = last[..., 0].numel()
    found = LossNumbers(0.0, float(rows), rows, None, call.num_classes)
    flat = last.reshape(rows, -1).double()
    found.label_counts = flat.mean(0) if rows else None
    found.target_entropy = float(torch.special.entr(flat).sum(1).mean()) if rows else 0.0
    found.smoothing = float(call.option("label_smoothing", 0.0) or 0.0)
    found.sum_nll = _sum(call, loss, found.count)
    return found


def _binary(call: LossCall, loss: Tensor, target: Tensor) -> LossNumbers:
    count, share = target.numel(), float(target.double().mean()) if target.numel() else 0.0
    found = LossNumbers(0.0, float(count), count, None, 2, torch.tensor([1 - share, share], dtype=torch.float64))
    found.target_entropy = float(_binary_entropy(target.double()).mean()) if count else 0.0
    found.sum_nll = _sum(call, loss, float(count))
    if call.has_input and call.input.shape == target.shape:
        edge = 0.0 if call.name.endswith("logits") else 0.5
        found.num_correct = int(((call.input.detach() > edge) == (target > 0.5)).sum())
    return found


def _binary_entropy(share: Tensor) -> Tensor:
    return torch.special.entr(share) + torch.special.entr(1 - share)


def _sum(call: LossCall, loss: Tensor, count: float) -> float:
    """What the reduction had before it divided."""
    if loss.ndim == 0 and call.reduction != "sum":
        normalizer = call.option("normalizer")
        return float(loss) * (count if normalizer is None else float(normalizer))
    return float(loss) if loss.ndim == 0 else float(loss.double().sum())


def _correct(call: LossCall, target: Tensor) -> int | None:
    """How many rows the largest score gets right; None where there is no table, or a large one."""
    if call.name == "linear_cross_entropy" or not call.has_input or call.input.numel() > MOST_ELEMENTS:
        return None
    try:
        scores = call.values_of(call.input)
    except NotChecked:
        return None
    predicted = scores.argmax(call.class_dim)
    shift = call.option("shift", 0)
    predicted = predicted[..., :-shift] if shift else predicted
    if predicted.shape != target.shape:
        return None
    return int(((predicted == target) & (target != call.ignore_index)).sum())


@dataclass
class Ruler:
    """What losses are read against, from the labels seen so far."""

    num_classes: int | None = None
    counts: Tensor | None = None
    _floor: float = 0.0
    _of_smoothing: dict[tuple[float, int], float] = field(default_factory=dict)

    def saw(self, numbers: LossNumbers) -> None:
        """Take the labels of a call in."""
        if numbers.num_classes is None or numbers.label_counts is None:
            return
        counts = numbers.label_counts.detach().double().cpu()
        if numbers.num_classes != self.num_classes or self.counts is None or len(counts) != len(self.counts):
            self.num_classes, self.counts = numbers.num_classes, torch.zeros_like(counts)
        weight = 1.0 if not numbers.label_counts.is_floating_point() else float(numbers.rows)
        self.counts += counts * weight
        self._floor = numbers.target_entropy or self._smoothed(numbers.smoothing, numbers.num_classes)

    def _smoothed(self, smoothing: float, num_classes: int) -> float:
        key = (smoothing, num_classes)
        if key not in self._of_smoothing:
            other = smoothing / num_classes
            own = 1 - smoothing + other
            rest = (num_classes - 1) * other * math.log(other) if other else 0.0
            self._of_smoothing[key] = -own * math.log(own) - rest if own else -rest
        return max(0.0, self._of_smoothing[key])

    def to_dict(self) -> dict[str, Any]:
        """Floor, label prior, ln C."""
        if self.num_classes is None or self.counts is None:
            return {"floor": None, "prior": None, "uniform": None, "num_classes": None}
        total = float(self.counts.sum())
        prior = float(torch.special.entr(self.counts / total).sum()) if total else None
        uniform = math.log(self.num_classes) if self.num_classes else None
        return {"floor": self._floor, "prior": prior, "uniform": uniform, "num_classes": self.num_classes}
