"""What a rank has of a tensor: all of it, some rows, or a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """A block of a tensor of which other ranks may have the rest, or the same.

    Attributes:
        tensor: the block; writing into it writes into what the rank trains.
        offsets: where it begins in the whole.
        shape: of the whole.
    """

    tensor: Tensor
    offsets: tuple[int, ...]
    shape: torch.Size


def piece_of(tensor: Tensor, first_row: int = 0, num_rows: int | None = None) -> Piece:
    """This rank's piece of a tensor.

    Args:
        tensor: a tensor, which is then a piece of its own, or a DTensor.
        first_row: where its rows begin among `num_rows`, if it is itself a part of a tensor.
        num_rows: of that tensor.
    """
    offsets, shape = [0] * tensor.ndim, list(tensor.shape)
    local: Any = tensor.detach()
    if hasattr(local, "to_local"):
        offsets, local = list(local.__create_chunk_list__()[0].offsets), local.to_local()
    if num_rows is not None and shape:
        offsets[0] += first_row
        shape[0] = num_rows
    return Piece(local, tuple(offsets), torch.Size(shape))
