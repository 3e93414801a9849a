"""Values of tensors, where they can be read: some rows, evenly spread."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from xent.inspection.examination._finding import NotChecked

_MOST_ELEMENTS = 1 << 20  # of a table that is looked at


def readable(tensor: Tensor) -> Tensor:
    """The tensor, detached.

    Raises:
        NotChecked: its values can't be read.
    """
    if not isinstance(tensor, Tensor):
        raise NotChecked(f"values of a {type(tensor).__name__} are not read")
    if tensor.device.type == "meta" or type(tensor).__name__ in ("FakeTensor", "FunctionalTensor"):
        raise NotChecked("values are not there (meta or fake tensors)")
    if is_functorch_wrapped_tensor(tensor):
        raise NotChecked("values can't be read inside torch.func transforms")
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        raise NotChecked(f"values of a {type(tensor).__name__} are not read")
    if tensor.layout != torch.strided:
        raise NotChecked(f"values of a {tensor.layout} tensor are not read")
    if tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise NotChecked("values can't be read while a CUDA graph is captured")
    return tensor.detach()


def rows(table: Tensor, class_dim: int, most: int, num_classes: int | None = None) -> Tensor:
    """At most so many rows (n, C) of a table; of hidden states, as many as their logits of `num_classes` would give."""
    table = readable(table)
    if table.ndim == 0:
        raise NotChecked("a scalar has no rows")
    last = table.movedim(class_dim, -1)
    return evenly_rows(last, most, num_classes)


def evenly_rows(last: Tensor, most: int, num_classes: int | None = None) -> Tensor:
    """(…, C) → (n, C), rows `evenly` spread."""
    num_rows, size = last[..., 0].numel() if last.shape[-1] else 0, last.shape[-1]
    chosen = _places(num_rows, most, size if num_classes is None else num_classes)
    if chosen is None:
        return last.reshape(-1, size)
    index = torch.unravel_index(chosen.to(last.device), last.shape[:-1])
    return last[index]


def evenly(flat: Tensor, most: int, num_classes: int) -> Tensor:
    """The entries of a flat tensor that belong to the rows that `rows` gives."""
    chosen = _places(flat.numel(), most, num_classes)
    return flat if chosen is None else flat[chosen.to(flat.device)]


def through_layer(hidden_ND: Tensor, weight_CD: Tensor, bias: Tensor | None) -> Tensor:
    """The logits (n, C) of some rows of hidden states.

    Raises:
        NotChecked: the layer's values can't be read, or it makes K-dimensional logits.
    """
    if weight_CD.ndim != 2:
        raise NotChecked("K-dimensional logits of a layer are not made")
    weight_CD = readable(weight_CD)
    bias = None if bias is None else readable(bias).to(weight_CD.dtype)
    return torch.nn.functional.linear(hidden_ND.to(weight_CD.dtype), weight_CD, bias)


def _places(num_rows: int, most: int, num_classes: int) -> Tensor | None:
    """Which rows; None for all of them."""
    most = max(1, min(most, _MOST_ELEMENTS // max(num_classes, 1)))
    if num_rows <= most:
        return None
    return torch.arange(most, device="cpu") * num_rows // most
