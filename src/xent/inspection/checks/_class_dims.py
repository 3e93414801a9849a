"""Classes that are not where the loss looks for them, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from torch import Tensor

from xent.inspection._nodes import Edge
from xent.inspection.checks._layers import layer_below, output_dim
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._dims import reshaped
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Certainty, Found, NotChecked
from xent.inspection.examination._provenance import Provenance, Step

_VIEWS = frozenset(["View", "UnsafeView", "ReshapeAlias", "Unflatten", "Squeeze", "Unsqueeze"])
_COPIES = frozenset(["Clone", "Alias", "ToCopy", "Contiguous"])
Shape = tuple[int, ...]


def fits_classes_last(call: LossCall) -> bool:
    """Whether class indices fit an input with the classes in its last dim, and the loss looks elsewhere."""
    rank = len(call.shape)
    return rank > 2 and call.class_dim != rank - 1 and tuple(call.target.shape) == call.shape[:-1]


def has_tensors(call: LossCall) -> bool:
    """Whether input and target are tensors at all; what torch raised is judged, too."""
    return isinstance(call.input, Tensor) and isinstance(call.target, Tensor)


def not_run(call: LossCall) -> bool:
    """Whether only the arguments were shown (`xent.check`), so that torch has not judged them."""
    return call.output is None and call.origin == "torch"


def rows_shape(call: LossCall) -> Shape:
    """The shape that class indices must have."""
    return tuple(size for dim, size in enumerate(call.shape) if dim != call.class_dim)


def _classes_not_dim_1(call: LossCall) -> Iterator[Found]:
    if not_run(call):
        yield from _refused(call)
        return
    rank = len(call.shape)
    if rank < 3:
        return
    dim = output_dim(call.edge)
    if dim is None or dim == call.class_dim:
        return
    if call.has_class_indices:
        if fits_classes_last(call) and dim == rank - 1:
            yield from _silent(call, dim)
    elif _sums_to_one(call, dim) and not _sums_to_one(call, call.class_dim):
        yield _misread(
            call, dim, f"the layer wrote its outputs to dim {dim}, and the targets sum to 1 over it", "proof"
        )


def _refused(call: LossCall) -> Iterator[Found]:
    """Torch refuses (N, T, C) unless T == C; the shapes alone say why."""
    if not has_tensors(call) or len(call.shape) < 3 or not call.has_class_indices or not fits_classes_last(call):
        return
    if tuple(call.target.shape) == rows_shape(call):
        return
    shape, last = call.shape, len(call.shape) - 1
    yield Found(
        message=f"the input of shape {shape} has its classes last: the target of shape {tuple(call.target.shape)} fits "
        f"{shape[-1]:,} classes in dim {last}, but the loss takes dim {call.class_dim} for the classes.",
        fix=_moved(len(shape)),
        proof="target.shape == input.shape[:-1]",
        values={"classes": shape[-1], "class_dim": call.class_dim},
    )


def _silent(call: LossCall, dim: int) -> Iterator[Found]:
    """As many positions as classes: torch can't see it."""
    made = call.provenance
    if made.made_by("Embedding"):
        yield _misread(call, dim, "EmbeddingBackward0 wrote the classes last", "proof")
        return
    place, outputs = layer_below(made, call.class_dim)
    if place is not None and place == outputs:
        return  # the layer mixes positions; the classes are what the layer before it wrote
    certainty: Certainty = "proof" if place is not None and outputs is not None else "signature"
    name = made.maker.name if made.maker else "the layer"
    yield _misread(call, dim, f"{name} wrote its outputs to dim {dim}", certainty)


def _misread(call: LossCall, dim: int, proof: str, certainty: Certainty) -> Found:
    size, last = call.num_classes, len(call.shape) - 1
    hidden = f"for them; both are {size:,} long, so that torch can't notice" if call.shape[dim] == size else "for them"
    return Found(
        message=f"the input of shape {call.shape} has its classes in dim {dim}, but the loss takes dim "
        f"{call.class_dim} {hidden}. Every position is scored against the logits of other positions.",
        fix=_moved(len(call.shape)) if dim == last else f"pass input.movedim({dim}, 1)",
        proof=proof,
        values={"classes": call.shape[dim], "dim": dim, "class_dim": call.class_dim},
        certainty=certainty,
    )


def _moved(rank: int) -> str:
    turned = "input.transpose(1, 2)" if rank == 3 else "input.movedim(-1, 1)"
    return f"pass {turned}, or input.flatten(0, -2) with target.flatten()"


def _sums_to_one(call: LossCall, dim: int) -> bool:
    target: Tensor = call.values_of(call.target)
    return bool(((target.double().sum(dim) - 1).abs() <= 1e-3).all())


def _view_instead_of_transpose(call: LossCall) -> Iterator[Found]:
    for top, below, shapes in _reshapes(call.provenance):
        place = top.dims[call.class_dim]
        dim = output_dim(below)
        if dim is None or place is None or below.shape[dim] < 2:
            continue
        kept = reshaped(below.shape, top.shape)
        if dim in kept or kept[place] is not None or top.shape[place] != below.shape[dim]:
            continue
        before = next((shape for shape in shapes if dim in reshaped(below.shape, shape)), below.shape)
        yield _mixed(before, top.shape, below.shape[dim], place)
        return


def _reshapes(made: Provenance) -> Iterator[tuple[Step, Edge, list[Shape]]]:
    """Runs of views, as one reshape each: the step on top, what is below, the shapes between from the top down."""
    path = [*made.steps, *filter(None, [made.maker])]
    at = 0
    while at < len(made.steps):
        end = at
        while end < len(made.steps) and (path[end].kind in _VIEWS or (end > at and path[end].kind in _COPIES)):
            end += 1
        if at < end < len(path):
            yield path[at], path[end].edge, [step.shape for step in path[at + 1 : end]]
        at = max(end, at + 1)


def _mixed(before: Shape, after: Shape, classes: int, place: int) -> Found:
    return Found(
        message=f"view or reshape made {after} of {before}: that keeps the order in memory and does not move the "
        f"{classes:,} classes to dim {place}, so that a row of the loss holds logits of different positions.",
        fix=_unmixed(before, after),
        proof=f"a view from {before} to {after} behind the input tears the outputs of the layer apart",
        values={"classes": classes, "dim": place},
    )


def _unmixed(before: Shape, after: Shape) -> str:
    if len(before) == len(after) == 3:
        return "use transpose(1, 2) in place of the view"
    if len(after) == 2:
        return f"move the classes last before the view: .movedim(1, -1).reshape({prod(before) // after[1]}, {after[1]})"
    return "use movedim or permute in place of the view"


def _one_class(call: LossCall) -> Iterator[Found]:
    if call.num_classes != 1 or not _is_fixed(call):
        return
    indices = call.has_class_indices
    linear = call.name == "linear_cross_entropy"
    what = (
        f"linear_weight of shape {tuple(call.option('linear_weight').shape)}"
        if linear
        else f"the input of shape {call.shape}"
    )
    yield Found(
        message=f"{what} has one class: the softmax of one logit is 1, so that the loss is "
        "exactly 0 for all that the model says, and so is the gradient. Nothing is learned.",
        fix=("for yes or no: binary_cross_entropy_with_logits with the target as float, in the input's shape"
             if not indices else
             "give the last layer one output per class (two for yes or no), or use binary_cross_entropy_with_logits"),
        proof="linear_weight.shape[0] == 1" if linear else f"input.shape[{call.class_dim}] == 1",
        values={"classes": 1, "rows": call.target.numel()},
    )  # fmt: skip


def _is_fixed(call: LossCall) -> bool:
    """Not one candidate by chance: in a contrastive loss the last batch may hold one sample, and so one class."""
    if call.name == "linear_cross_entropy" or prod(rows_shape(call)) > 1:
        return True
    try:
        return output_dim(call.edge) == call.class_dim
    except NotChecked:
        return False


_HEAD = """
import torch
import torch.nn.functional as F

"""
_TOKENS = _HEAD + (
    "embedding, layer = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 5)\n"
    "ids = torch.randint(20, (4, {length}))\n"
    "logits = layer(embedding(ids))\n"
)
_SAMPLES = _HEAD + "model = torch.nn.Linear(8, 1)\nx, y = torch.randn(32, 8), torch.randint(2, (32, 1)).float()\n"

RULES = (
    Rule(
        slug="classes-not-dim-1",
        severity="error",
        certainty="proof",
        title="classes in the last dim, the loss looks in dim 1",
        functions=("cross_entropy", "nll_loss"),
        needs=("a graph",),
        at_loss_call=_classes_not_dim_1,
        at_error=_refused,
        example=_TOKENS.format(length=5) + "loss = F.cross_entropy(logits, ids % 5)\nloss.backward()\n",
        corrected=_TOKENS.format(length=5)
        + "loss = F.cross_entropy(logits.transpose(1, 2), ids % 5)\nloss.backward()\n",
    ),
    Rule(
        slug="view-instead-of-transpose",
        severity="error",
        certainty="proof",
        title="view or reshape where dims had to be moved",
        functions=("cross_entropy", "nll_loss"),
        needs=("a graph",),
        at_loss_call=_view_instead_of_transpose,
        example=_TOKENS.format(length=7) + "loss = F.cross_entropy(logits.view(4, 5, 7), ids % 5)\nloss.backward()\n",
        corrected=_TOKENS.format(length=7)
        + "loss = F.cross_entropy(logits.transpose(1, 2), ids % 5)\nloss.backward()\n",
    ),
    Rule(
        slug="one-class",
        severity="error",
        certainty="proof",
        title="one class: loss and gradient are 0",
        functions=("cross_entropy", "linear_cross_entropy"),
        at_loss_call=_one_class,
        example=_SAMPLES + "loss = F.cross_entropy(model(x), y)\nloss.backward()\n",
        corrected=_SAMPLES + "loss = F.binary_cross_entropy_with_logits(model(x), y)\nloss.backward()\n",
    ),
)
