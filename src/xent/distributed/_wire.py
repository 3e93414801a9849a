"""The states of rows as bytes: one message a rank, planes of numbers one after another, no number twice.

    float32 and half logits      index targets without smoothing and class weight     float32 10, half 8 bytes a row
                                 log-sum-exp 8, spread 4, and 4 for each of: mass of a dense target, class weight,
                                 entropy, largest logit, prediction, largest target probability, its class
    float64 logits               log-sum-exp 16, and 8 for each of the others (4 for indices)

Ignored rows are not sent; every rank knows the targets. The short form of a plain row is the pair (base, rest) with
lse_r = base + rest: on the rank that has the target base is its logit, exact in the dtype of the logits, and rest its
surprisal among the rank's classes; on the others base is any number near lse_r. `rest` keeps 36 binary digits: relative
error 2**-37, 1e-9 for a surprisal of 100.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xent.distributed._shard import Shard, ShardState

if TYPE_CHECKING:
    from xent.distributed._agreement import Agreement

SIX = "six bytes"  # a float64 without its last 16 binary digits
Kind = torch.dtype | str
HEAD = 8  # bytes before the planes; the first says whether the rank failed
_LARGEST = {torch.float16: 65504.0}  # beyond, a base would be infinite


def is_short(shard: Shard) -> bool:
    """Whether a row needs no more than base and rest."""
    plain = shard.is_hard and shard.terms.weight is None and not shard.terms.label_smoothing
    return plain and shard.dtype != torch.float64


def planes_of(shard: Shard) -> dict[str, Kind]:
    """Names and kinds of the numbers that a row of this shard sends."""
    exact = shard.dtype == torch.float64
    number = torch.float64 if exact else torch.float32
    if is_short(shard):
        planes: dict[str, Kind] = {"base": _base_dtype(shard), "rest": SIX}
    else:
        planes = {"reference": torch.float64, "rest": torch.float64} if exact else {"reference": torch.float64}
        planes["spread"] = number
        if shard.is_hard and shard.terms.weight is not None:
            planes["weight"] = number
        if not shard.is_hard:
            planes["mass"] = number
    if shard.with_stats:
        planes |= {"entropy": number, "best": number, "prediction": torch.int32}
        if shard.is_dense:
            planes |= {"true_value": number, "true_index": torch.int32}
    return planes


def _base_dtype(shard: Shard) -> torch.dtype:
    """That of the logits where z is the logit itself."""
    unchanged = shard.terms.logit_scale == 1.0 and shard.terms.softcap is None
    return shard.logits.dtype if unchanged else torch.float32


def bytes_per_row(shard: Shard) -> int:
    """What a counted row adds to the message of each rank."""
    return sum(6 if kind is SIX else torch.empty(0, dtype=kind).element_size() for kind in planes_of(shard).values())  # pyright: ignore[reportArgumentType, reportCallIssue]


class Room:
    """Which rows count, and the memory of their messages.

    It is made before the first message, which can still say that it was not there: after that a rank without it could
    not take part, and the others would wait.

    Attributes:
        counted: mask (*rows) of the rows that count; None where all do.
        num_counted: M.
        message: the rank's own, (n,) bytes.
        messages: of all ranks, (size, n).
    """

    def __init__(self, shard: Shard, size: int) -> None:
        mask = shard.counted()
        self.counted = None if mask is None or bool(mask.all()) else mask
        self.num_counted = shard.row_shape.numel() if self.counted is None else int(self.counted.sum())
        num_bytes, device = HEAD + self.num_counted * bytes_per_row(shard), shard.logits.device
        self.message = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        self.messages = torch.empty(size, num_bytes, dtype=torch.uint8, device=device)

    def kept(self) -> Tensor | None:
        """Numbers of the rows that count, (M,); None where all do."""
        return None if self.counted is None else self.counted.reshape(-1).nonzero().squeeze(1)


def write_failure(message: Tensor) -> None:
    """The word that the rank failed."""
    message.zero_()
    message[0] = 1


def encode(shard: Shard, state: ShardState, message: Tensor) -> None:
    """Write the state of a rank's counted rows (M,) as its message."""
    device = shard.logits.device
    values = vars(state) | (_short_form(shard, state) if is_short(shard) else {})
    if "reference" in planes_of(shard) and shard.dtype != torch.float64:
        values = values | {"reference": state.reference + state.rest}
    parts = [torch.zeros(HEAD, dtype=torch.uint8, device=device)]
    parts += [_to_bytes(values[name].detach(), kind) for name, kind in planes_of(shard).items()]
    torch.cat(parts, out=message)


def _short_form(shard: Shard, state: ShardState) -> dict[str, Tensor]:
    """Base and rest; a target without any probability has a base above lse_r, since a surprisal is never below 0."""
    dtype, has = _base_dtype(shard), state.mass > 0
    lse, most = state.reference + state.rest, _LARGEST.get(_base_dtype(shard), torch.inf)
    impossible = has & (state.spread == torch.inf)
    near = torch.where(impossible, lse + lse.abs() / 64 + 1, lse)
    base = torch.where(has & ~impossible, state.reference + (state.rest - state.spread), near)
    base = base.clamp(-most, most).to(dtype) if most < torch.inf else base.to(dtype)
    rest = (state.reference - base.double()) + state.rest
    rest = torch.where(has & ~impossible, state.spread.clamp(min=0), rest)
    none = state.reference == -torch.inf
    return {"base": base.masked_fill(none, -torch.inf), "rest": rest.masked_fill(none, -1)}


def decoded(shard: Shard, agreement: Agreement, target: Tensor, messages: Tensor) -> ShardState:
    """The states of all ranks, (size, M), from their messages; `target` holds the counted rows' class indices."""
    found, at = {}, HEAD
    num_rows = (messages.shape[1] - HEAD) // bytes_per_row(shard)
    for name, kind in planes_of(shard).items():
        width = num_rows * (6 if kind is SIX else torch.empty(0, dtype=kind).element_size())  # pyright: ignore[reportArgumentType, reportCallIssue]
        found[name] = _from_bytes(messages[:, at : at + width], kind)
        at += width
    values = {name: value.double() if value.is_floating_point() else value.long() for name, value in found.items()}
    if shard.is_hard:
        owns = _owners(agreement.starts, target)
        if is_short(shard):
            values |= _long_form(values.pop("base"), values.pop("rest"), owns)
        values.setdefault("weight", owns.double())
        masses = agreement.masses.to(target.device).unsqueeze(1)
        values["mass"] = (1 - shard.terms.label_smoothing) * values["weight"] + masses
    reference = values["reference"]
    return ShardState(**{"rest": torch.zeros_like(reference), "weight": torch.ones_like(reference), **values})


def _long_form(base: Tensor, rest: Tensor, owns: Tensor) -> dict[str, Tensor]:
    spread = torch.where(rest < 0, torch.inf, rest).masked_fill(~owns, 0)
    return {"reference": base, "rest": rest.masked_fill(base == -torch.inf, 0), "spread": spread}


def _owners(starts: list[int], target: Tensor) -> Tensor:
    """Which rank has the class of each row, (size, M)."""
    first = torch.tensor(starts[:-1], device=target.device).unsqueeze(1)
    last = torch.tensor(starts[1:], device=target.device).unsqueeze(1)
    return (target >= first) & (target < last)


def _to_bytes(value: Tensor, kind: Kind) -> Tensor:
    if isinstance(kind, torch.dtype):
        return value.to(kind).contiguous().view(torch.uint8).reshape(-1)
    bits = (value.double().contiguous().view(torch.int64) + (1 << 15)) >> 16
    return bits.view(torch.uint8).view(-1, 8)[:, :6].reshape(-1)


def _from_bytes(raw: Tensor, kind: Kind) -> Tensor:
    if raw.shape[-1] == 0:
        return raw.new_empty(raw.shape, dtype=kind if isinstance(kind, torch.dtype) else torch.float64)
    if isinstance(kind, torch.dtype):
        return raw.clone(memory_format=torch.contiguous_format).view(kind)
    wide = torch.zeros(*raw.shape[:-1], raw.shape[-1] // 6, 8, dtype=torch.uint8, device=raw.device)
    wide[..., :6] = raw.reshape(*raw.shape[:-1], -1, 6)
    return (wide.view(torch.int64).squeeze(-1) << 16).view(torch.float64)
