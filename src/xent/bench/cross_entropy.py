"""`xent bench cross-entropy`: the loss of given logits, and its gradient, on the CPU.

Every contestant computes `F.cross_entropy(logits, target, …)` on the same tensors. `optax` reads the same memory as a
jax array; where torch is given a transposed view, it is given the array with the classes last, as its users would. From
bfloat16 it computes in float32 (`astype` inside jit, which XLA fuses): that is faster and more exact than bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import xent
from xent.bench.contest import Entry
from xent.bench.loss_cases import LossCase, all_cases, quick_cases
from xent.bench.peers import absent, jax_entry, to_jax, torch_entry
from xent.bench.questions import Question
from xent.bench.truth import loss_gradient_error

_SMOOTHING = 0.1


class LossField:
    """Logits, target and options of a case; seed 0."""

    def __init__(self, case: LossCase) -> None:
        self.case = case
        generator = torch.Generator().manual_seed(0)
        dtype = getattr(torch, case.dtype)
        num_rows, num_classes, *rest = case.shape
        if case.layout == "transposed":
            stored = torch.empty(num_rows, *rest, num_classes, dtype=dtype).normal_(generator=generator)
            self.logits = stored.movedim(-1, 1)
        else:
            self.logits = torch.empty(case.shape, dtype=dtype).normal_(generator=generator)
        self.weight: Tensor | None = None
        if case.option == "weights":
            self.weight = (torch.rand(num_classes, generator=generator) + 0.5).to(dtype)
        self.smoothing = _SMOOTHING if case.option == "smoothing" else 0.0
        if case.option == "probabilities":
            self.target = torch.empty(case.shape, dtype=dtype).normal_(generator=generator).softmax(1)
        else:
            self.target = torch.randint(num_classes, (num_rows, *rest), generator=generator)
        self.logits.requires_grad_(case.backward)

    def entry(self, contestant: str) -> Entry:
        """A contestant on these tensors."""
        makers: dict[str, Callable[[], Entry]] = {
            "xent": lambda: self._torch_entry(xent.cross_entropy),
            "torch": lambda: self._torch_entry(F.cross_entropy),
            "compiled": self._compiled,
            "optax": self._optax,
            "read": lambda: Entry(self.logits.detach().sum),
            "clone": lambda: Entry(self.logits.detach().clone),
        }
        return makers[contestant]()

    def gradient_error(self, gradients: list[Tensor]) -> float:
        """See `truth.loss_gradient_error`."""
        gradient = gradients[0]
        if gradient.shape != self.logits.shape:  # jax held the classes last
            gradient = gradient.movedim(-1, 1)
        return loss_gradient_error(gradient, self.logits.detach(), self.target, self.weight, self.smoothing)

    def backend(self) -> dict[str, object]:
        """The choice that xent makes."""
        return xent.choices(self.logits, self.target, operation="cross_entropy").to_dict()

    def _torch_entry(self, function: Callable[..., Tensor]) -> Entry:
        logits, target, options = self.logits, self.target, self._options()
        leaves = (logits,) if self.case.backward else ()
        if not options:
            return torch_entry(lambda: function(logits, target), leaves)
        return torch_entry(lambda: function(logits, target, **options), leaves)

    def _options(self) -> dict[str, Any]:
        smoothing = {"label_smoothing": self.smoothing} if self.smoothing else {}
        return smoothing | ({"weight": self.weight} if self.weight is not None else {})

    def _compiled(self) -> Entry:
        return self._torch_entry(torch.compile(F.cross_entropy, dynamic=False, fullgraph=True))

    def _optax(self) -> Entry:
        optax: Any = import_module("optax")
        jax: Any = import_module("jax")
        axis = -1 if self.case.layout == "transposed" else 1
        classes_last = self.logits.movedim(1, -1) if self.case.layout == "transposed" else self.logits
        logits, labels, smoothing = to_jax(classes_last), to_jax(self.target), self.smoothing
        num_classes = self.case.shape[1]

        def of_indices(logits: Any, labels: Any) -> Any:
            logits = logits.astype("float32")
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=axis).mean()

        def of_probabilities(logits: Any, labels: Any) -> Any:
            logits, labels = logits.astype("float32"), labels.astype("float32")
            return optax.softmax_cross_entropy(logits, labels, axis=axis).mean()

        def smoothed(logits: Any, labels: Any) -> Any:
            one_hot = jax.nn.one_hot(labels, num_classes, axis=axis)
            return of_probabilities(logits, optax.smooth_labels(one_hot, smoothing))

        def weighted(logits: Any, labels: Any, weight: Any) -> Any:
            row_weight = weight[labels].astype("float32")
            rows = optax.softmax_cross_entropy_with_integer_labels(logits.astype("float32"), labels, axis=axis)
            return (rows * row_weight).sum() / row_weight.sum()

        arguments = (logits, labels) if self.weight is None else (logits, labels, to_jax(self.weight))
        loss = {"probabilities": of_probabilities, "smoothing": smoothed, "weights": weighted}
        return jax_entry(loss.get(self.case.option, of_indices), arguments, int(self.case.backward))


_LABELS = {
    "xent": "xent.cross_entropy",
    "torch": "F.cross_entropy",
    "compiled": "torch.compile of it",
    "optax": "optax under jit",
    "read": "logits.sum()",
    "clone": "logits.clone()",
}
QUESTION = Question(
    name="cross-entropy",
    title="the loss of given logits and its gradient",
    baseline="torch",
    labels=_LABELS,
    error_text="largest |g − g64| / (p + q) over evenly spaced rows: 0.39 % is what rounding to bfloat16 costs",
    cases=lambda quick: quick_cases() if quick else all_cases(),
    contestants=lambda case: list(_LABELS),
    absent=lambda: absent(*_LABELS),
    field=LossField,
    beside=("xent", "read"),
)
