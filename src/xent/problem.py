"""From a user's tensors to canonical rows: strided views with the classes last, no copy of the logits.

    logits (*rows, C)     target (*rows) int64, or (*rows, C) floating     row_weight (*rows) or None
                          or sparse: (*rows, k) int64 and as many probabilities

Every check of a user's tensors lives here and is made on shapes, dtypes and targets alone, before any work on logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent import target_checks
from xent.errors import DeviceError, DimensionError, DtypeError, OptionError, ShapeError, TargetRangeError
from xent.sparse_target import SparseTarget, check_sparse, summed_over_equals
from xent.terms import LossTerms

if TYPE_CHECKING:
    from xent.head import HeadRows

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Rows:
    """The canonical form of one loss problem.

    Attributes:
        logits: (*rows, C), a view of the caller's tensor (log-probabilities for `nll_loss`).
        target: (*rows) int64 class indices, or (*rows, C) probabilities in any floating dtype; or, of a sparse target,
            (*rows, k) int64 class indices, `ignore_index` where an entry is padding.
        terms: the options, with `row_weight` expanded to (*rows).
        probabilities: (*rows, k) of a sparse target, 0 where an entry is padding; None for the other two.
    """

    logits: Tensor
    target: Tensor
    terms: LossTerms
    probabilities: Tensor | None = None

    @property
    def is_hard(self) -> bool:
        """Whether targets are class indices."""
        return self.target.ndim < self.logits.ndim

    @property
    def is_dense(self) -> bool:
        """Whether targets are probabilities of all classes."""
        return self.probabilities is None and not self.is_hard

    @property
    def num_classes(self) -> int:
        """C."""
        return self.logits.shape[-1]

    @property
    def stats_dtype(self) -> torch.dtype:
        """float32 for half logits, their own dtype otherwise."""
        return stats_dtype(self.logits.dtype)


@dataclass(frozen=True)
class LogitsLayout:
    """What the checks need to know of logits, held or not: `linear_cross_entropy` never makes them whole.

    Of a shard, some of the classes: there may be none, and which indices are in range is not known here.
    """

    shape: tuple[int, ...]
    class_dim: int
    device: torch.device
    is_shard: bool = False

    @property
    def num_classes(self) -> int:
        """C."""
        return self.shape[self.class_dim]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape without the classes."""
        return self.shape[: self.class_dim] + self.shape[self.class_dim + 1 :]


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of losses and statistics for logits of `dtype`."""
    return torch.float32 if dtype in HALF else dtype


def rows_of(
    input: Tensor,
    target: Tensor | SparseTarget,
    terms: LossTerms,
    dim: int | None = None,
    shift: int = 0,
    look: bool = True,
) -> Rows:
    """Canonical rows of logits `input` whose classes are in `dim` (torch's rule when None).

    Without `look`, whether class indices are in range is left to the caller: `check_range_of`, or a kernel that sees.
    """
    check_floating("input", input)
    layout = LogitsLayout(tuple(input.shape), class_dim(input, dim), input.device)
    indices, probabilities, terms = canonical_target(layout, target, terms, shift, look)
    last = layout.class_dim == input.ndim - 1
    logits = input if last else input.movedim(layout.class_dim, -1)
    return Rows(drop_last(logits, shift, dim=-2), indices, terms, probabilities)


def counted_mask(problem: Rows | HeadRows) -> Tensor | None:
    """Mask (*rows) of the rows that count; None where all of them do."""
    if problem.is_dense:
        return None
    named = problem.target != problem.terms.ignore_index
    return named if problem.is_hard else named.any(-1)


def safe_target(problem: Rows | HeadRows) -> Tensor:
    """Class indices with class 0 for what is ignored: its row is masked later, or its probability is 0.

    On a GPU, where nobody has looked, with a class of range in the place of one that is not: its row is NaN later.
    """
    index = problem.target.masked_fill(problem.target == problem.terms.ignore_index, 0)
    return index if target_checks.readable_at_once(index) else index.clamp(0, problem.num_classes - 1)


def nan_where_out_of_range(problem: Rows) -> Tensor | None:
    """A factor for every row, (*rows) in the dtype of the statistics: NaN where a class index is out of range, else 1.

    None on a CPU, where such targets raised before, and for probabilities of all classes.
    """
    target = problem.target
    if problem.is_dense or target_checks.readable_at_once(target):
        return None
    outside = target_checks.out_of_range(target, problem.num_classes, problem.terms.ignore_index)
    outside = outside if problem.is_hard else outside.any(-1)
    return torch.ones(outside.shape, dtype=problem.stats_dtype, device=target.device).masked_fill(outside, torch.nan)


def true_class(problem: Rows | HeadRows) -> Tensor:
    """The target class, or the most likely one of a probability target: the first of equals, (*rows)."""
    if problem.is_hard:
        return problem.target
    if problem.probabilities is None:
        return problem.target.argmax(-1)
    index = safe_target(problem)
    total = summed_over_equals(index, problem.probabilities)
    best = total.amax(-1, keepdim=True)
    first = index.masked_fill(total != best, torch.iinfo(torch.int64).max).amin(-1)
    return first.masked_fill(best.squeeze(-1) <= 0, 0)  # nothing but zeros: class 0, as argmax says


def class_dim(input: Tensor, dim: int | None) -> int:
    """The dimension of the classes: `dim`, or torch's rule (dim 1, or dim 0 for one unbatched row)."""
    if input.ndim == 0:
        raise ShapeError("input is a scalar", "it needs a dimension of classes", "pass shape (C,) or (N, C)")
    if dim is None:
        return 0 if input.ndim == 1 else 1
    return checked_dim(dim, input)


def checked_dim(dim: object, input: Tensor) -> int:
    """`dim` as a non-negative index into the dimensions of `input`."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise DtypeError(f"dim is a {type(dim).__name__}", "it is an integer", "pass int(dim)")
    if not -input.ndim <= dim < input.ndim:
        raise DimensionError(
            f"dim={dim} for input of shape {tuple(input.shape)}",
            f"it must lie in [{-input.ndim}, {input.ndim - 1}]",
            "pass the dimension that holds the classes",
        )
    return dim % input.ndim


def canonical_target(
    layout: LogitsLayout, target: Tensor | SparseTarget, terms: LossTerms, shift: int, look: bool = True
) -> tuple[Tensor, Tensor | None, LossTerms]:
    """Check target and weights against the layout of the logits; classes last, shifted, int64."""
    if isinstance(target, SparseTarget):
        check_device("target.indices", target.indices, layout.device)
        check_device("target.probabilities", target.probabilities, layout.device)
    else:
        check_device("target", target, layout.device)
    _check_class_weight(terms.weight, layout)
    if layout.num_classes == 0 and not layout.is_shard:
        raise ShapeError(f"logits of shape {layout.shape} have 0 classes", "a loss needs at least one", "pass logits")
    _check_shift(shift, layout)
    probabilities = None
    if isinstance(target, SparseTarget):
        check_sparse(target, layout.row_shape)
        target, probabilities = (drop_first(part, shift, dim=-2) for part in target)
        target = _as_int64(target)
        probabilities = probabilities.masked_fill(target == terms.ignore_index, 0)
    elif tuple(target.shape) == layout.shape:
        target = drop_first(_probability_target(layout, target, terms), shift, dim=-2)
    else:
        target = drop_first(_index_target(layout, target, terms), shift, dim=-1)
    if look and not target.is_floating_point() and not layout.is_shard:
        check_target_range(target, layout.num_classes, terms.ignore_index)
    return target, probabilities, _with_row_weight(terms, layout, shift)


def _index_target(layout: LogitsLayout, target: Tensor, terms: LossTerms) -> Tensor:
    if tuple(target.shape) != layout.row_shape:
        raise _target_shape_error(layout, target)
    if target.dtype == torch.bool or target.is_floating_point() or target.is_complex():
        raise DtypeError(
            f"target of shape {tuple(target.shape)} has dtype {target.dtype}",
            "class indices are integers",
            f"pass target.long(), or probabilities of the logits' shape {layout.shape}",
        )
    return _as_int64(target)


def _as_int64(target: Tensor) -> Tensor:
    indices = target.long()  # a narrow dtype cannot hold ignore_index=-100: 156 must not become it
    if target.dtype == torch.uint64 and values_are_readable(indices) and bool((indices < 0).any()):
        raise TargetRangeError(
            "target holds numbers of 2**63 and more", "classes count from 0 to C-1", "mend the labels"
        )
    return indices


def _probability_target(layout: LogitsLayout, target: Tensor, terms: LossTerms) -> Tensor:
    if not target.is_floating_point():
        raise DtypeError(
            f"target has the logits' shape {layout.shape} and dtype {target.dtype}",
            "a target of that shape holds class probabilities, which are floating point",
            f"pass target.float(), or target.argmax({layout.class_dim}) if it is one-hot",
        )
    if terms.ignore_index >= 0:
        raise OptionError(
            f"ignore_index={terms.ignore_index} with class probabilities",
            "only class indices can be ignored",
            "leave it out, and pass row_weight=0 for the rows to leave out",
        )
    return target.movedim(layout.class_dim, -1)


def _target_shape_error(layout: LogitsLayout, target: Tensor) -> ShapeError:
    shape, rows = layout.shape, layout.row_shape
    got = f"target has shape {tuple(target.shape)} but logits of shape {shape} have classes in dim {layout.class_dim}"
    need = f"class indices need shape {rows}, probabilities {shape}"
    if len(shape) > 2 and tuple(target.shape) == shape[:-1]:
        do = f"pass input.movedim(-1, {layout.class_dim}), or dim=-1"
    elif target.numel() == _product(rows) and target.ndim == len(rows) + 1 and target.shape[-1] == 1:
        do = "pass target.squeeze(-1)"
    elif target.numel() == _product(rows):
        do = f"pass target.reshape({rows}) if its order is that of the rows"
    elif len(shape) > 2 and target.numel() == _product(shape[:-1]):
        do = f"pass target.reshape({shape[:-1]}) and dim=-1 if the classes are last"
    else:
        do = "pass one target for each row"
    return ShapeError(got, need, do)


def check_range_of(problem: Rows | HeadRows) -> None:
    """The same check for a canonical problem."""
    if not problem.is_dense:
        check_target_range(problem.target, problem.num_classes, problem.terms.ignore_index)


def check_target_range(target: Tensor, num_classes: int, ignore_index: int, *, may_wait: bool = False) -> None:
    """Raise for class indices outside [0, C) that are not `ignore_index`: at once on a CPU, and where the caller waits
    for the GPU anyway; else on a GPU, if they are checked there, at a later call.
    """
    if not _is_plain(target) or target.numel() == 0 or target.is_meta:
        return
    if may_wait or target_checks.readable_at_once(target):
        _raise_at_once(target, num_classes, ignore_index)
    elif target_checks.switch.on:
        target_checks.look_later(target, num_classes, ignore_index)


def _raise_at_once(target: Tensor, num_classes: int, ignore_index: int) -> None:
    low, high = (int(bound) for bound in torch.aminmax(target))
    if low >= 0 and high < num_classes:
        return
    outside = target_checks.out_of_range(target, num_classes, ignore_index)
    count = int(outside.sum())
    if count == 0:
        return
    worst, where = target[outside], outside.nonzero()[0].tolist()
    counted = target[target != ignore_index]
    num_ignored = target.numel() - counted.numel()
    found = target_checks.Found(
        count, int(worst.min()), int(worst.max()), target.numel(), int(counted.min()), num_ignored
    )
    raise found.error(f"row {where}", num_classes, ignore_index)


def values_are_readable(tensor: Tensor) -> bool:
    """Whether reading a value is possible and free: not on a device, not while tracing, not inside vmap."""
    return target_checks.readable_at_once(tensor) and _is_plain(tensor)


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor holds numbers: not while tracing, not inside vmap."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0  # pyright: ignore[reportAttributeAccessIssue]  (make_fx, fake)
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]
    )


def _check_class_weight(weight: Tensor | None, layout: LogitsLayout) -> None:
    if weight is None:
        return
    check_device("weight", weight, layout.device)
    if tuple(weight.shape) != (layout.num_classes,):
        raise ShapeError(
            f"weight has shape {tuple(weight.shape)}",
            f"class weights need shape ({layout.num_classes},), one for each class in dim {layout.class_dim} of the "
            f"logits {layout.shape}",
            "pass one weight for each class (row_weight= weighs rows)",
        )


def _with_row_weight(terms: LossTerms, layout: LogitsLayout, shift: int) -> LossTerms:
    if terms.row_weight is None:
        return terms
    check_device("row_weight", terms.row_weight, layout.device)
    row_weight = terms.row_weight
    try:  # widened before it is expanded: the gradient of rows that share a weight is summed in float32
        expanded = row_weight.to(stats_dtype(row_weight.dtype)).expand(layout.row_shape)
    except RuntimeError as error:
        raise ShapeError(
            f"row_weight has shape {tuple(terms.row_weight.shape)}",
            f"it must broadcast to the rows {layout.row_shape}",
            "pass one weight for each row",
        ) from error
    return replace(terms, row_weight=drop_first(expanded, shift, dim=-1))


def _check_shift(shift: object, layout: LogitsLayout) -> None:
    if isinstance(shift, bool) or not isinstance(shift, int):
        raise DtypeError(f"shift is a {type(shift).__name__}", "it is an integer", "pass int(shift)")
    if shift < 0:
        raise OptionError(f"shift={shift}", "it counts positions ahead, 0 or more", "pass shift=1 for the next token")
    if shift and not layout.row_shape:
        raise ShapeError(f"shift={shift} for one unbatched row", "a shift needs a sequence of rows", "pass shift=0")


def check_tensor(name: str, tensor: object) -> Tensor:
    """`tensor`, or raise if it is none."""
    if not isinstance(tensor, Tensor):
        raise DtypeError(f"{name} is a {type(tensor).__name__}", "it is a tensor", f"pass torch.tensor({name})")
    return tensor


def check_floating(name: str, tensor: object) -> None:
    """Raise unless `tensor` is a floating point tensor."""
    tensor = check_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise DtypeError(f"{name} has dtype {tensor.dtype}", "it is floating point", f"pass {name}.float()")


def check_device(name: str, tensor: object, device: torch.device) -> None:
    """Raise unless `tensor` is a tensor on `device`."""
    tensor = check_tensor(name, tensor)
    if tensor.device != device:
        raise DeviceError(
            f"{name} is on {tensor.device} and input on {device}",
            "the tensors of a loss live on one device",
            f"pass {name}.to(input.device)",
        )


def drop_first(tensor: Tensor, count: int, dim: int) -> Tensor:
    """A view without the first `count` positions of `dim`: the targets of a shifted sequence."""
    if count == 0:
        return tensor
    start = min(count, tensor.shape[dim])
    return tensor.narrow(dim, start, tensor.shape[dim] - start)


def drop_last(tensor: Tensor, count: int, dim: int) -> Tensor:
    """A view without the last `count` positions of `dim`: the inputs of a shifted sequence."""
    return tensor if count == 0 else tensor.narrow(dim, 0, max(tensor.shape[dim] - count, 0))


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
