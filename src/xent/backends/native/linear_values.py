"""What goes in and out of the two ways to cut a linear + cross-entropy. N·K losses, in the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xent.backends.native.linear_rows import CountedRows
from xent.head import HeadRows
from xent.problem import HALF, counted_mask, stats_dtype


@dataclass(frozen=True, eq=False)
class Values:
    """Values of every loss, each (N·K,); an ignored row has 0 everywhere and prediction −1.

    Attributes:
        loss: in the dtype of the statistics.
        weight: what the row adds to the mean's denominator.
        exact_lse: logsumexp in float64, NaN where it is infinite: there is no softmax.
        lse_low: what float64 rounded off it.
        mass: Σ_c w_c q_c of dense probability targets, else None.
        entropy: of the prediction; None without statistics, as the next two.
        prediction: most likely class.
        lse: logsumexp in the dtype of the statistics, ±inf where it is that.
        top_index: the most likely classes (N·K, k), −1 for ignored rows; None where none are asked for.
        top_logit: their z, float64.
        counted: mask of the losses that count, where ignored ones are not left out of the work.
    """

    loss: Tensor
    weight: Tensor
    exact_lse: Tensor
    lse_low: Tensor
    mass: Tensor | None
    entropy: Tensor | None
    prediction: Tensor | None
    lse: Tensor | None = None
    top_index: Tensor | None = None
    top_logit: Tensor | None = None
    counted: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Those of the kernel's outputs that are there, by their names there."""
        others = ("top_index", "top_logit", "counted")
        return {name: value for name, value in vars(self).items() if value is not None and name not in others}


@dataclass(frozen=True, eq=False)
class Upstream:
    """Gradients of the differentiable values, each (N·K,) in the dtype of the statistics, or None for 0."""

    loss: Tensor | None
    lse: Tensor | None = None
    entropy: Tensor | None = None
    weight: Tensor | None = None

    @property
    def is_zero(self) -> bool:
        """Whether neither the losses nor the weights of the rows are asked about."""
        return self.loss is None and self.weight is None

    def between(self, where: Tensor | slice) -> Upstream:
        """Those of some rows."""
        return Upstream(*(None if g is None else g[where] for g in (self.loss, self.lse, self.entropy, self.weight)))


@dataclass(frozen=True)
class Needs:
    """Which gradients are asked for; the others cost nothing."""

    hidden: bool
    weight: bool
    bias: bool
    target: bool = False
    class_weight: bool = False
    probabilities: bool = False

    @property
    def logits(self) -> bool:
        """Whether any of them goes through the gradient of the logits."""
        return self.hidden or self.weight or self.bias

    @property
    def terms(self) -> bool:
        """Whether the target or the class weight is asked for."""
        return self.target or self.class_weight or self.probabilities


@dataclass(eq=False)
class Gradients:
    """Gradients of hidden (N, D), weight (C·K, D) and bias (C·K,), in the inputs' dtype; None where not asked for.

    Those of a dense target, of the class weight (C,) and of the probabilities of a sparse target likewise.
    """

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    target: Tensor | None = None
    class_weight: Tensor | None = None
    probabilities: Tensor | None = None


def empty_values(rows: CountedRows, *, with_stats: bool, top: int = 0) -> Values:
    """Values of no row yet: those of ignored rows."""
    problem = rows.problem
    count, dtype = rows.num_hidden * rows.per_hidden, stats_dtype(problem.hidden.dtype)
    return Values(
        loss=torch.zeros(count, dtype=dtype),
        weight=torch.zeros(count, dtype=dtype),
        exact_lse=torch.zeros(count, dtype=torch.float64),
        lse_low=torch.zeros(count, dtype=torch.float64),
        mass=torch.zeros(count, dtype=dtype) if problem.is_dense else None,
        entropy=torch.zeros(count, dtype=dtype) if with_stats else None,
        prediction=torch.full((count,), -1) if with_stats else None,
        lse=torch.zeros(count, dtype=dtype) if with_stats else None,
        top_index=torch.full((count, top), -1) if top else None,
        top_logit=torch.zeros(count, top, dtype=torch.float64) if top else None,
        counted=_counted(problem),
    )


def _counted(problem: HeadRows) -> Tensor | None:
    """Ignored rows are dropped but for K-dimensional logits."""
    counted = counted_mask(problem) if problem.extra_shape else None
    return None if counted is None else counted.reshape(-1)


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Gradients of half inputs are summed in float32."""
    return torch.float32 if dtype in HALF else dtype
