"""Targets of a dtype or shape that the loss does not take: what torch raised, said again with the cause and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from xent.inspection.checks._class_dims import fits_classes_last, has_tensors, not_run, rows_shape
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Found, NotChecked

_INDEX_DTYPES = (torch.int64, torch.uint8)


def _if_not_run(call: LossCall) -> Iterator[Found]:
    if not_run(call):
        yield from _target_dtype_or_shape(call)


def _target_dtype_or_shape(call: LossCall) -> Iterator[Found]:
    if not has_tensors(call):
        yield from _no_tensors(call)
    elif call.is_binary:
        yield from _binary(call)
    elif len(call.shape) and not fits_classes_last(call):
        found = list(_inputs(call) if not call.input.is_floating_point() else _classes(call))
        yield from found or _class_weight(call)


def _found(message: str, fix: str, call: LossCall) -> Found:
    shapes = {f"{name}_dims": float(tensor.ndim) for name, tensor in (("input", call.input), ("target", call.target))
              if isinstance(tensor, Tensor)}  # fmt: skip
    return Found(message=message, fix=fix, proof="dtypes and shapes of the arguments", values=shapes)


def _no_tensors(call: LossCall) -> Iterator[Found]:
    input, target = call.input, call.target
    if not isinstance(input, Tensor):
        kind = type(input).__name__
        fix = "pass its logits: output[0]" if isinstance(input, (tuple, list)) else "pass its logits: output.logits"
        yield _found(f"the input is a {kind}, no tensor: the model returns more than the logits.", fix, call)
    else:
        fix = "pass torch.tensor(target)" if isinstance(target, (list, tuple, int)) else "pass a tensor"
        yield _found(f"the target is a {type(target).__name__}, no tensor.", fix, call)


def _inputs(call: LossCall) -> Iterator[Found]:
    input, target = call.input, call.target
    if target.is_floating_point() and target.ndim > input.ndim:
        yield _found(
            f"the arguments are swapped: the first, of dtype {_name(input)} and shape {_of(input)}, are class indices, "
            f"the second, of shape {_of(target)}, are logits.",
            "pass (input, target): logits first",
            call,
        )
    else:
        yield _found(f"the logits are of dtype {_name(input)}, which has no softmax.", "pass input.float()", call)


def _classes(call: LossCall) -> Iterator[Found]:
    target, needed = call.target, rows_shape(call)
    if tuple(target.shape) == needed:
        yield from _wrong_dtype(call)
    elif target.shape == call.input.shape:
        yield from _a_row_of_numbers(call)
    else:
        yield _wrong_shape(call, needed)


def _wrong_dtype(call: LossCall) -> Iterator[Found]:
    target = call.target
    if target.dtype in _INDEX_DTYPES or (call.name == "cross_entropy" and target.shape == call.input.shape):
        return
    if target.is_floating_point() and not _are_whole(call, target):
        yield _found(
            f"the target of dtype {_name(target)} and shape {_of(target)} has one number per row that is no class "
            f"(fractions); probabilities need the input's shape {call.shape}.",
            "for real numbers use a regression loss (mse_loss); for classes pass whole numbers, target.long()",
            call,
        )
        return
    yield _found(
        f"the target of shape {_of(target)} has one number per row, so that they are class indices, but its dtype is "
        f"{_name(target)}; class indices are int64.",
        "pass target.long()",
        call,
    )


def _class_weight(call: LossCall) -> Iterator[Found]:
    """What torch refuses where nothing is wrong with the targets."""
    weight = call.option("weight")
    if not isinstance(weight, Tensor) or call.error is None:
        return
    if tuple(weight.shape) != (call.num_classes,):
        yield _found(
            f"the class weight has shape {_of(weight)}, and there are {call.num_classes:,} classes: it takes one "
            "number for each.",
            f"pass a weight of shape ({call.num_classes},)",
            call,
        )
    elif weight.dtype != call.input.dtype:
        yield _found(
            f"the class weight is of dtype {_name(weight)}, the logits of {_name(call.input)}; they must be the same.",
            "pass weight.to(input.dtype)",
            call,
        )


def _are_whole(call: LossCall, target: Tensor) -> bool:
    try:
        values = call.values_of(target)
    except NotChecked:
        return True
    return bool((values == values.round()).all())


def _a_row_of_numbers(call: LossCall) -> Iterator[Found]:
    target, dim = call.target, call.class_dim
    if call.name == "cross_entropy" and target.is_floating_point():
        return
    one_hot, several = _hot(call, target)
    kind = "one-hot rows" if one_hot else "rows of 0 and 1 with several ones" if several else "rows of numbers"
    if call.name == "nll_loss":
        fix = f"pass target.argmax({dim})" if one_hot else "use cross_entropy, which takes probabilities"
        yield _found(
            f"the target of shape {_of(target)} has {kind}, one number per class; nll_loss takes class indices of "
            f"shape {rows_shape(call)}.", fix, call)  # fmt: skip
        return
    fix = (
        f"pass target.argmax({dim}), or target.float()" if one_hot else "pass target.float() if they are probabilities"
    )
    if several:
        fix = "several classes at once: binary_cross_entropy_with_logits(input, target.float())"
    yield _found(
        f"the target of shape {_of(target)}, that of the input, has {kind} of dtype {_name(target)}: one number per "
        f"class, which are probabilities and must be floating point; class indices have shape {rows_shape(call)}.",
        fix, call)  # fmt: skip


def _hot(call: LossCall, target: Tensor) -> tuple[bool, bool]:
    """Whether all rows are one-hot; whether they are 0 and 1 and some have several ones."""
    try:
        values = call.values_of(target)
    except NotChecked:
        return False, False
    if not bool(((values == 0) | (values == 1)).all()):
        return False, False
    ones = values.sum(call.class_dim)
    return bool((ones == 1).all()), bool((ones > 1).any())


def _wrong_shape(call: LossCall, needed: tuple[int, ...]) -> Found:
    target = call.target
    extra = _extra_dim(tuple(target.shape), needed)
    cast = "" if target.dtype in _INDEX_DTYPES else ".long()"
    if extra is not None:
        return _found(
            f"the target of shape {_of(target)} has a dim of size 1 (dim {extra}) too many: with an input of "
            f"shape {call.shape} class indices have shape {needed}.",
            f"pass target.squeeze({extra}){cast}",
            call,
        )
    fix = _fix_of_shape(call, needed)
    return _found(
        f"the target of shape {_of(target)} ({target.numel():,} entries) does not fit the input of shape {call.shape}, "
        f"which has {prod(needed):,} rows of {call.num_classes:,} classes: class indices have shape {needed}.",
        fix + (f", and {cast}" if cast and target.is_floating_point() and target.ndim <= len(needed) else ""),
        call,
    )


def _extra_dim(shape: tuple[int, ...], needed: tuple[int, ...]) -> int | None:
    if len(shape) != len(needed) + 1:
        return None
    candidates = [dim for dim, size in enumerate(shape) if size == 1 and shape[:dim] + shape[dim + 1 :] == needed]
    return candidates[-1] if candidates else None


def _fix_of_shape(call: LossCall, needed: tuple[int, ...]) -> str:
    shape, target = call.shape, call.target
    if len(shape) > 2 and target.ndim == 1 and target.numel() == prod(shape[:-1]):
        return "pass input.flatten(0, -2)"
    if target.ndim > 1 and target.numel() == prod(needed):
        return "pass target.flatten()" if len(needed) == 1 else f"pass target.reshape{needed}"
    if not needed and target.numel() == 1:
        return "pass target.squeeze()"
    if target.ndim == 0 and prod(needed) == 1:
        return f"pass target.reshape{needed}"
    sizes = list(target.shape)
    if len(sizes) == 2 and len(shape) == 2 and sizes[:1] == list(shape[:1]):
        return f"give the last layer {sizes[1]} outputs, or the target {call.num_classes} columns"
    return "make both have as many rows: look where they were cut, batched or flattened"


def _binary(call: LossCall) -> Iterator[Found]:
    input, target = call.input, call.target
    if input.shape != target.shape:
        yield _found(
            f"the target of shape {_of(target)} and the input of shape {_of(input)} differ; {call.name} compares them "
            "element by element.", _binary_fix(input, target), call)  # fmt: skip
    elif not target.is_floating_point():
        yield _found(
            f"the target is of dtype {_name(target)}; {call.name} takes probabilities, which are floating point.",
            "pass target.float()", call)  # fmt: skip
    elif not input.is_floating_point():
        yield _found(f"the input is of dtype {_name(input)}, not floating point.", "pass input.float()", call)
    elif input.dtype != target.dtype and call.error is not None and "dtype" in str(call.error):
        yield _found(
            f"the input is of dtype {_name(input)}, the target of {_name(target)}; they must be the same.",
            "pass target.to(input.dtype)", call)  # fmt: skip


def _binary_fix(input: Tensor, target: Tensor) -> str:
    cast = "" if target.is_floating_point() else ".float()"
    for dim in range(input.ndim):
        if input.shape[dim] == 1 and input.shape[:dim] + input.shape[dim + 1 :] == target.shape:
            return f"pass input.squeeze({dim})" + (" and target.float()" if cast else "")
    for dim in range(target.ndim):
        if target.shape[dim] == 1 and target.shape[:dim] + target.shape[dim + 1 :] == input.shape:
            return f"pass target.squeeze({dim}){cast}"
    if input.ndim == 2 and target.ndim == 1 and len(input) == len(target):
        return (f"for one of {input.shape[1]} classes use cross_entropy; for yes or no give the last layer one output "
                "and pass input.squeeze(1)")  # fmt: skip
    if input.numel() == target.numel():
        return f"pass target.reshape(input.shape){cast}"
    return "make both of the same shape: look where they were cut, batched or flattened"


def _of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


RULES = (
    Rule(
        slug="target-dtype-or-shape",
        severity="error",
        certainty="proof",
        title="a target of a dtype or shape that the loss does not take",
        functions=("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
        at_loss_call=_if_not_run,
        at_error=_target_dtype_or_shape,
        example="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(4, 3), torch.tensor([[0], [2], [1], [1]])
F.cross_entropy(logits, labels)
""",
        corrected="""
import torch
import torch.nn.functional as F

logits, labels = torch.randn(4, 3), torch.tensor([[0], [2], [1], [1]])
F.cross_entropy(logits, labels.squeeze(1))
""",
    ),
)
