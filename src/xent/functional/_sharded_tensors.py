"""Losses of DTensors: each rank's part on plain tensors, results with the placement that the rows have.

Along each axis of the mesh the logits are split by rows, by classes, or not at all:

    rows      this rank's rows; sums are added over the axis
    classes   this rank's classes; log-sum-exp states are merged over the axis (xent.distributed)

No handler is installed and no operation of DTensor is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xent.distributed._exchange import CrossEntropyRows
from xent.distributed._ranks import Ranks, raise_together, ranks_of
from xent.errors import OptionError, ShapeError
from xent.problem import check_tensor, checked_dim, class_dim
from xent.reduction import as_denominator, sum_of_rows
from xent.row_stats import RowStats
from xent.sparse_target import SparseTarget
from xent.terms import LossTerms

Given = Callable[[], dict[str, Any]]
LocalRows = Callable[[Tensor, Given, object], CrossEntropyRows]  # of local logits or hidden states, and their options


def is_sharded(*tensors: object) -> bool:
    """Whether one of them is a DTensor; loads nothing for those who have none."""
    if torch.compiler.is_compiling():  # plain tensors by then, or operations that DTensor distributes itself
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


@dataclass(frozen=True, eq=False)
class Layout:
    """How the rows and classes of a problem lie on a mesh.

    Attributes:
        mesh: the mesh.
        class_axis: the axis that splits the classes, or None.
        row_dims: for each axis the dimension of the rows that it splits, or None.
        row_shape: the shape of all rows.
    """

    mesh: Any
    class_axis: int | None
    row_dims: tuple[int | None, ...]
    row_shape: tuple[int, ...]

    def placements(self, dim_of: Callable[[int], int], class_at: int | None) -> list[Any]:
        """Placements of a tensor whose dimension `dim_of(d)` is row dimension d, and `class_at` the classes."""
        from torch.distributed.tensor import Replicate, Shard

        made: list[Any] = []
        for axis, row in enumerate(self.row_dims):
            if row is not None:
                made.append(Shard(dim_of(row)))
            elif axis == self.class_axis and class_at is not None:
                made.append(Shard(class_at))
            else:
                made.append(Replicate())
        return made

    def group(self) -> object:
        """The ranks that share the classes, or None."""
        return None if self.class_axis is None else self.mesh.get_group(self.class_axis)

    def with_partial_rows(self, placements: Sequence[Any]) -> list[Any]:
        """Placements of the gradient of a tensor that every rank of a row axis uses for its own rows."""
        from torch.distributed.tensor import Partial

        return [
            Partial() if row is not None and placement.is_replicate() else placement
            for row, placement in zip(self.row_dims, placements, strict=True)
        ]


def layout_of(input: Any, class_at: int) -> Layout:
    """The layout of logits whose classes are in `class_at`; of hidden states, whose features are, no class axis."""
    row_dims: list[int | None] = []
    class_axis = None
    for axis, placement in enumerate(input.placements):
        row_dims.append(None)
        if placement.is_replicate():
            continue
        if type(placement).__name__ != "Shard":  # `is_shard` says no of a strided one
            raise OptionError(
                f"input is placed as {placement} along axis {axis} of the mesh",
                "its shards are whole blocks of a dimension, which flatten() of a split one does not leave",
                "pass it unflattened, with dim=, or redistribute it",
            )
        dim = placement.dim % input.ndim
        if dim != class_at:
            row_dims[axis] = dim - (dim > class_at)
        elif class_axis is None:
            class_axis = axis
        else:
            raise OptionError(
                f"input has its classes on axes {class_axis} and {axis} of the mesh",
                "one axis splits the classes",
                "redistribute one of them",
            )
    shape = tuple(size for dim, size in enumerate(input.shape) if dim != class_at)
    return Layout(input.device_mesh, class_axis, tuple(row_dims), shape)


def without_partial(tensor: Any) -> Any:
    """The DTensor with its partial sums made."""
    from torch.distributed.tensor import Replicate

    if not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    return tensor.redistribute(
        placements=[Replicate() if placement.is_partial() else placement for placement in tensor.placements]
    )


def local_part(tensor: Tensor, layout: Layout, placements: Sequence[Any], name: str) -> Tensor:
    """This rank's part of a tensor that is a DTensor, or whole on every rank."""
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(tensor, DTensor):
        tensor = DTensor.from_local(tensor, layout.mesh, [Replicate()] * layout.mesh.ndim, run_check=False)
    if tensor.device_mesh != layout.mesh:
        raise OptionError(
            f"{name} lies on the mesh {tensor.device_mesh} and input on {layout.mesh}",
            "the tensors of a loss lie on one mesh",
            "distribute it over the mesh of input",
        )
    moved = tensor.redistribute(placements=list(placements))
    return moved.to_local(grad_placements=layout.with_partial_rows(placements))


def local_options(
    target: Tensor | SparseTarget, terms: LossTerms, layout: Layout, class_at: int
) -> tuple[Tensor | SparseTarget, LossTerms]:
    """This rank's part of target and weights."""
    num_rows = len(layout.row_shape)
    of_rows = layout.placements(lambda dim: dim, None)
    row_weight = _row_weight(terms, layout)
    if isinstance(target, SparseTarget):
        target = SparseTarget(*(local_part(part, layout, of_rows, "target") for part in target))
    elif check_tensor("target", target).ndim > num_rows:
        dense = layout.placements(lambda dim: dim + (dim >= class_at), class_at)
        target = local_part(target, layout, dense, "target")
    else:
        _check_target_shape(target, layout)
        target = local_part(target, layout, of_rows, "target")
    weight = terms.weight
    if weight is not None:
        of_classes = [
            placement if axis == layout.class_axis else _whole()
            for axis, placement in enumerate(layout.placements(lambda dim: dim, 0))
        ]
        weight = local_part(check_tensor("weight", weight), layout, of_classes, "weight")
    if row_weight is not None:
        row_weight = local_part(row_weight, layout, of_rows, "row_weight")
    return target, replace(terms, weight=weight, row_weight=row_weight)


def _row_weight(terms: LossTerms, layout: Layout) -> Tensor | None:
    """Those of all rows."""
    if terms.row_weight is None:
        return None
    row_weight = check_tensor("row_weight", terms.row_weight)
    try:
        return row_weight.expand(layout.row_shape)
    except RuntimeError as error:
        raise ShapeError(
            f"row_weight has shape {tuple(row_weight.shape)}",
            f"it must broadcast to the rows {layout.row_shape} over all ranks",
            "pass one weight for each row",
        ) from error


def with_whole_normalizer(terms: LossTerms) -> LossTerms:
    """The terms with the number that a DTensor holds."""
    if not is_sharded(terms.normalizer):
        return terms
    return replace(terms, normalizer=terms.normalizer.full_tensor())  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def together(layout: Layout, call: Callable[[], CrossEntropyRows]) -> CrossEntropyRows:
    """What `call` returns, unless it raises on a rank: then it raises on all ranks of the mesh.

    Those who share the classes tell each other; along every axis of rows a flag travels: the sum is yet to come, and
    a rank that raised would not be there.
    """
    rows, failure = None, None
    try:
        rows = call()
    except Exception as error:  # whatever it is, the others must hear of it
        failure = error
    for axis, row in enumerate(layout.row_dims):
        if row is not None:
            failure = _heard(ranks_of(layout.mesh.get_group(axis)), failure)
    if failure is not None:
        raise failure
    if rows is None:
        raise RuntimeError("a rank without rows did not say that it failed")
    return rows


def _heard(ranks: Ranks, failure: Exception | None) -> Exception | None:
    """The rank's own failure, or that of another."""
    flags = ranks.gather(torch.tensor([failure is not None], dtype=torch.uint8)).wait()[:, 0]
    try:
        raise_together(ranks, failure, flags)
    except Exception as error:
        return error
    return None


def _whole() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


def _check_target_shape(target: Tensor, layout: Layout) -> None:
    if tuple(target.shape) != layout.row_shape:
        raise ShapeError(
            f"target has shape {tuple(target.shape)} for rows of shape {layout.row_shape} over all ranks",
            "a target that is no DTensor is whole on every rank",
            "pass all targets, or a DTensor of them",
        )


def check_shift(shift: int, layout: Layout) -> None:
    """Raise where a position and its target would be on two ranks."""
    if shift and len(layout.row_shape) - 1 in layout.row_dims:
        raise OptionError(
            f"shift={shift} with the sequence split over axis {layout.row_dims.index(len(layout.row_shape) - 1)}",
            "the targets of a shard's last positions are on the next rank",
            "shift the targets before you shard them: target = F.pad(target[..., shift:], (0, shift), value=-100)",
        )


def reduced(rows: CrossEntropyRows, terms: LossTerms, layout: Layout, shift: int) -> Any:
    """The loss as a DTensor: split as the rows are for reduction="none", else a number on every rank."""
    if terms.reduction == "none":
        return placed(rows.loss, layout, shift)
    total = _summed(sum_of_rows(rows.loss), layout)
    if terms.reduction == "sum":
        return total
    if terms.normalizer is None:
        return total / _summed(sum_of_rows(rows.weight), layout)
    return total / as_denominator(terms.normalizer, rows.loss)


def with_stats(rows: CrossEntropyRows, loss: Any, layout: Layout, shift: int) -> Any:
    """The loss and the statistics as DTensors."""
    if rows.stats is None:
        return loss
    return loss, RowStats(*(placed(value, layout, shift) for value in rows.stats))


def placed(values: Tensor, layout: Layout, shift: int) -> Any:
    """Values of this rank's rows as a DTensor of all rows."""
    from torch.distributed.tensor import DTensor

    shape = list(layout.row_shape)
    if shift:
        shape[-1] = max(shape[-1] - shift, 0)
    stride = torch.empty(shape, device="meta").stride()
    placements = layout.placements(lambda dim: dim, None)
    return DTensor.from_local(
        values.contiguous(), layout.mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def _summed(value: Tensor, layout: Layout) -> Any:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    whole = [Replicate()] * layout.mesh.ndim
    placements = [Replicate() if row is None else Partial() for row in layout.row_dims]
    return DTensor.from_local(value, layout.mesh, placements, run_check=False).redistribute(placements=whole)


def hidden_layout(hidden: Any, weight: Any, dim: int) -> tuple[Layout, Any, Any]:
    """The layout of a linear loss, and hidden states and weight redistributed to it.

    Along an axis that splits hidden rows and weight, the smaller of the two is gathered: the other keeps its split.
    """
    from torch.distributed.tensor import DTensor, Replicate

    mesh = hidden.device_mesh if isinstance(hidden, DTensor) else weight.device_mesh
    whole = [Replicate()] * mesh.ndim
    if not isinstance(hidden, DTensor):
        hidden = DTensor.from_local(hidden, mesh, whole, run_check=False)
    if not isinstance(weight, DTensor):
        weight = DTensor.from_local(weight, mesh, whole, run_check=False)
    of_hidden, of_weight, class_axis = [], [], None
    for axis in range(mesh.ndim):
        of_rows: Any = hidden.placements[axis]
        of_classes: Any = weight.placements[axis]
        by_rows = of_rows.is_shard() and of_rows.dim % hidden.ndim != dim
        by_classes = of_classes.is_shard() and of_classes.dim == 0 and class_axis is None
        if by_rows and by_classes:
            by_rows, by_classes = hidden.numel() >= weight.numel(), hidden.numel() < weight.numel()
        class_axis = axis if by_classes else class_axis
        of_hidden.append(of_rows if by_rows else Replicate())
        of_weight.append(of_classes if by_classes else Replicate())
    hidden, weight = hidden.redistribute(placements=of_hidden), weight.redistribute(placements=of_weight)
    return replace(layout_of(hidden, dim), class_axis=class_axis), hidden, weight


def cross_entropy_of_shards(
    input: Any, target: Tensor | SparseTarget, terms: LossTerms, dim: int | None, shift: int, local: LocalRows
) -> Any:
    """`cross_entropy` of a DTensor of logits."""
    if not is_sharded(input):
        raise OptionError(
            "target or weights are DTensors and input is not", "the layout is that of the logits", "distribute input"
        )
    where = class_dim(input, dim)
    input = without_partial(input)
    layout = layout_of(input, where)
    check_shift(shift, layout)
    terms = with_whole_normalizer(terms)
    logits = input.to_local(grad_placements=input.placements)

    def given() -> dict[str, Any]:
        part, terms_here = local_options(target, terms, layout, where)
        return {"target": part, "terms": terms_here, "dim": where, "shift": shift}

    rows = together(layout, lambda: local(logits, given, layout.group()))
    return with_stats(rows, reduced(rows, terms, layout, shift), layout, shift)


def linear_of_shards(
    tensors: tuple[Any, Any, Tensor | None],
    target: Tensor | SparseTarget,
    terms: LossTerms,
    dim: int | None,
    shift: int,
    local: LocalRows,
) -> Any:
    """`linear_cross_entropy` of DTensors of hidden states or weight."""
    hidden, weight, bias = tensors
    if not is_sharded(hidden, weight):
        raise OptionError(
            "target or weights are DTensors and neither input nor linear_weight is",
            "the layout is that of input and linear_weight",
            "distribute these",
        )
    where = checked_dim(-1 if dim is None else dim, hidden)
    if weight.ndim != 2:
        raise OptionError("linear_weight of K-dimensional logits as a DTensor", "it is (C, D)", "pass the local parts")
    hidden, weight = (without_partial(t) if is_sharded(t) else t for t in (hidden, weight))
    layout, hidden, weight = hidden_layout(hidden, weight, where)
    check_shift(shift, layout)
    terms = with_whole_normalizer(terms)
    here = [p if axis == layout.class_axis else _whole() for axis, p in enumerate(weight.placements)]
    states = hidden.to_local(grad_placements=hidden.placements)

    def given() -> dict[str, Any]:
        part, terms_here = local_options(target, terms, layout, where)
        return {
            "linear_weight": weight.to_local(grad_placements=layout.with_partial_rows(weight.placements)),
            "linear_bias": None if bias is None else local_part(bias, layout, here, "linear_bias"),
            "target": part,
            "terms": terms_here,
            "dim": where,
            "shift": shift,
        }

    rows = together(layout, lambda: local(states, given, layout.group()))
    return with_stats(rows, reduced(rows, terms, layout, shift), layout, shift)
