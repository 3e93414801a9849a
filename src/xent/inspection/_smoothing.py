"""Label smoothing as a graph holds it: picks and sums over the classes of one table, each with its factor."""

from __future__ import annotations

import torch
from torch import Tensor

from xent.inspection._groups import Group, Picked, per_row, scores_rows
from xent.inspection._reduction_words import without_rounding


def smoothing_of(
    group: Group, picked: Picked, weight: Tensor
) -> tuple[float, Tensor, Tensor, Tensor | None, Tensor] | None:
    """ε, upstream, mean over the classes of each row, weight of class and row; None if no one ε fits all rows."""
    count, num_classes = scores_rows(group), group.base.shape[group.class_dim]
    factor = per_row(group.sums, count)
    profile = _class_profile(group)
    if factor is None or len(group.sums) != 1 or profile is False:
        return None
    spread, own = num_classes * -factor[picked.rows], -picked.factor
    counted = picked.counted & (weight != 0) & ((spread != 0) | (own != 0))  # a selection left the others out
    ratio = (spread * weight / own)[counted]
    if not len(ratio):  # nothing counts: no number says what ε was
        return 0.0, torch.full_like(own, torch.nan), torch.zeros_like(own), None, weight
    shares = torch.where(ratio.isinf() | ratio.isnan(), 1.0, ratio / (1 + ratio))
    if bool(((shares - shares[0]).abs() > group.tolerance).any()):
        return None
    smoothing = without_rounding(float(shares[0]), group.tolerance)
    upstream = spread / smoothing if smoothing else quotient(own, weight)
    values = group.sums[0][0].values.detach().reshape(-1)[picked.rows]
    return smoothing, upstream, -values / num_classes, profile if isinstance(profile, Tensor) else None, weight


def weight_of_sums(group: Group, picked: Picked) -> Tensor:
    """w[target], where the graph has the class weight in the sum over classes alone."""
    profile = _class_profile(group)
    weight = profile[picked.classes] if isinstance(profile, Tensor) else picked.weight
    return torch.where(picked.counted, weight, 0.0)


def _class_profile(group: Group) -> Tensor | bool | None:
    """The one factor of each class in the sum over classes; None without one, False where rows differ."""
    profile = None
    for expression in group.sums[0][0].factors:
        shape = (1,) * (len(group.base.shape) - len(expression.shape)) + expression.shape
        if any(size != 1 for dim, size in enumerate(shape) if dim != group.class_dim):
            return False
        zero = torch.zeros((), dtype=torch.int64)
        index = [zero] * len(shape)
        if shape[group.class_dim] != 1:
            index[group.class_dim] = torch.arange(shape[group.class_dim])
        found = expression.at(tuple(index[len(index) - len(expression.shape) :]))
        profile = found if profile is None else profile * found
    return None if profile is None else profile.reshape(-1).expand(group.base.shape[group.class_dim])


def quotient(above: Tensor, below: Tensor) -> Tensor:
    """Above / below; NaN where a weight of 0 hides the factor."""
    return torch.where(below != 0, above / below, torch.nan)
