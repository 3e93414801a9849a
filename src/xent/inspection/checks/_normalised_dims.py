"""A softmax over another dim than the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from xent.inspection.checks._layers import normalised_dim, output_dim
from xent.inspection.checks._rule import Rule
from xent.inspection.examination._events import LossCall
from xent.inspection.examination._finding import Certainty, Found, NotChecked
from xent.inspection.examination._provenance import Provenance, provenance_of_edge, saved_dim

_MOST = 1 << 20  # elements of a table whose sums are taken
_SUMS_TO_ONE = 1e-4  # rounding of a sum of float32 probabilities
_OFF = 0.01  # a row whose sum is this far from 1 is not normalised
_MAKERS = {"cross_entropy": ("Softmax", "LogSoftmax"), "nll_loss": ("LogSoftmax",)}


def _softmax_wrong_dim(call: LossCall) -> Iterator[Found]:
    if len(call.shape) < 2:
        return
    try:
        made = call.provenance
    except NotChecked:
        made = None
    if made is None or made.maker is None or made.is_hidden:
        yield from _by_values(call)
    elif made.made_by(*_MAKERS[call.name]) and not made.edited_in_place:
        yield from _by_graph(call, made)


def _by_graph(call: LossCall, made: Provenance) -> Iterator[Found]:
    dim = normalised_dim(made)
    if dim is None:
        raise NotChecked("views mixed the dims that the softmax ran over")
    if made.maker is None or dim == call.class_dim or call.shape[dim] < 2:
        return
    if output_dim(call.edge) == dim:
        return  # it ran over the outputs of the layer: classes-not-dim-1
    below = made.maker.edge.operands[0]
    if below is not None and provenance_of_edge(below).made_by("Softmax", "LogSoftmax"):
        return  # normalised over both dims in turn (Sinkhorn)
    if _each_class_once(call):
        return
    sums = _row_sums(call, in_logs=made.made_by("LogSoftmax"))
    if sums is not None and not bool(((sums - 1).abs() > _OFF).any()):
        return
    yield _found(call, dim, _where(made, dim), sums, "proof")


def _where(made: Provenance, dim: int) -> str:
    """The proof; where dims were moved since, the dim that stands in the user's code as well."""
    if made.maker is None:
        return ""
    written = saved_dim(made.maker.edge)
    moved = "" if written == dim else f", which was dim {written} where it was taken"
    return f"{made.maker.name} ran over dim {dim} of the input{moved}"


def _each_class_once(call: LossCall) -> bool:
    """Whether the targets name each class once: then columns may be normalised as well (contrastive losses)."""
    if len(call.shape) != 2 or not call.has_class_indices or call.shape[0] != call.num_classes:
        return False
    return call.values_of(call.target).unique().numel() == call.num_classes


def _by_values(call: LossCall) -> Iterator[Found]:
    table = call.values_of(call.input)
    if not table.is_floating_point() or table.element_size() < 4 or not 0 < table.numel() <= _MOST:
        return
    for in_logs in (True, False) if call.name == "cross_entropy" else (True,):
        values = table.double().exp() if in_logs else table.double()
        if bool((values < 0).any()) or bool(((values == 0) | (values == 1)).all()):
            continue
        sums = values.sum(call.class_dim)
        if _all_one(sums):
            return
        for dim in range(table.ndim):
            if (
                dim != call.class_dim
                and table.shape[dim] > 1
                and _all_one(values.sum(dim))
                and not _each_class_once(call)
            ):
                yield _found(call, dim, f"the sums over dim {dim} are 1, those over dim {call.class_dim} are not", sums,
                             "signature")  # fmt: skip
                return


def sums_to_one_somewhere(table: Tensor) -> bool:
    """Whether the sums over one of the dims are 1: a softmax made the values; tables that are large are not asked."""
    if table.numel() > _MOST:
        return False
    return any(_all_one(table.double().sum(dim)) for dim in range(table.ndim) if table.shape[dim] > 1)


def _all_one(sums: Tensor) -> bool:
    return bool(((sums - 1).abs() <= _SUMS_TO_ONE).all())


def _row_sums(call: LossCall, *, in_logs: bool) -> Tensor | None:
    """What the probabilities of each row sum to; None where that can't be read or would take long."""
    if not call.has_input or not 0 < call.input.numel() <= _MOST:
        return None
    wide = call.values_of(call.input).double()
    sums = (wide.exp() if in_logs else wide).sum(call.class_dim)
    return sums if bool(sums.isfinite().all()) else None


def _found(call: LossCall, dim: int, proof: str, sums: Tensor | None, certainty: Certainty) -> Found:
    values: dict[str, Any] = {"dim": dim, "class_dim": call.class_dim}
    rows = ""
    if sums is not None:
        low, high = float(sums.min()), float(sums.max())
        values |= {"least_sum": low, "greatest_sum": high}
        rows = f". The probabilities of one row sum to {low:.4g} … {high:.4g}, not to 1"
    return Found(
        message=f"softmax ran over dim {dim} of the input of shape {call.shape}, but the classes are dim "
        f"{call.class_dim}{rows}. Rows compete with each other, and a row's loss depends on the others.",
        fix=f"take it over dim {call.class_dim} of this input" if call.name == "nll_loss" else
            "leave it out: cross_entropy applies it itself, over the classes",
        proof=proof,
        values=values,
        certainty=certainty,
    )  # fmt: skip


_HEAD = """
import torch
import torch.nn.functional as F

model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
"""

RULES = (
    Rule(
        slug="softmax-wrong-dim",
        severity="error",
        certainty="proof",
        title="softmax over another dim than the classes",
        functions=("cross_entropy", "nll_loss"),
        needs=("a graph, or values that can be read",),
        at_loss_call=_softmax_wrong_dim,
        example=_HEAD + "loss = F.nll_loss(model(x).log_softmax(dim=0), y)\nloss.backward()\n",
        corrected=_HEAD + "loss = F.nll_loss(model(x).log_softmax(dim=1), y)\nloss.backward()\n",
    ),
)
