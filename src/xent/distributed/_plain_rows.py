"""Rows with index targets and no option that weighs classes, on the native column: state, merge and gradient at once.

native/shard_rows.h does what `_wire` and `_merge` do, a row at a time: their tensors, one for each step, are some
hundred small operations and 300 bytes a row. The messages are the same. The gradient needs the log-sum-exp of all
classes alone:

    G_c = (g_loss + g_lse) p_c − g_loss [c is the target],   p_c = exp(z_c − lse), times dz/dx
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.backends.native.machine import availability, empty_gradient, streams
from xent.distributed._agreement import Agreement
from xent.distributed._exchange import CrossEntropyRows, shard_file
from xent.distributed._first_order import first_order
from xent.distributed._ranks import Ranks, raise_together
from xent.distributed._shard import Shard
from xent.distributed._wire import HEAD, Room, is_short, write_failure

if TYPE_CHECKING:
    from xent.backends.native import _kernels as _module


def is_plain(shard: Shard) -> bool:
    """Whether this rank's rows can be taken here; all ranks must be able to."""
    if not is_short(shard) or shard.with_stats or shard.terms.row_weight is not None:
        return False
    file_of_empty = "kernels" if availability() is None and shard.logits.device.type == "cpu" else "formula"
    return (shard_file(shard) if shard.width else file_of_empty) == "kernels"


class PlainRows:
    """The rows of one call on one rank.

    The memory of a row is used twice: the log-sum-exps of this rank lie where the messages of all will arrive, rounded
    ones where its loss will, and those of all classes, kept for the gradient, where its own message was.
    """

    def __init__(self, shard: Shard, room: Room, ranks: Ranks) -> None:
        self._shard, self._ranks = shard, ranks
        self._rows = shard.row_shape.numel()
        self._counted, self._message, self._messages = room.counted, room.message, room.messages
        self._loss: Tensor | None = None
        self._sums: tuple[Tensor, ...] = ()
        self._failure: Exception | None = None

    def begin(self) -> None:
        """The log-sum-exps of the rank's classes: they need nothing of the other ranks."""
        try:
            self._loss = torch.empty(self._rows, dtype=torch.float32)
            if not self._shard.width:
                return
            self._sums = self._room_of_sums(self._loss)
            outputs = dict(zip(("exact_lse", "lse_low", "lse"), self._sums, strict=True))
            _kernels().cross_entropy(_problem(self._shard, self._counted), outputs, torch.get_num_threads())
        except Exception as error:  # whatever it is, the others must hear of it
            self._failure = error

    def _room_of_sums(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Two numbers of float64 and one of float32 for each row."""
        room = self._messages.view(-1)
        if len(room) < 16 * self._rows:
            room = torch.empty(16 * self._rows, dtype=torch.uint8)
        exact, low, _ = room.tensor_split([8 * self._rows, 16 * self._rows])
        return exact.view(torch.float64), low.view(torch.float64), loss

    def finish(self, shard: Shard, agreement: Agreement) -> CrossEntropyRows:
        """Loss and weight of every row, from the shard that knows its place.

        Raises:
            XentError: a rank failed; on every rank.
        """
        self._failure = self._failure or agreement.failure
        self._encode(shard)
        messages = self._ranks.gather(self._message, into=self._messages).wait()
        if bool(messages[:, 0].any()):
            raise_together(self._ranks, self._failure, messages[:, 0])
        if self._loss is None:
            raise RuntimeError("a rank without room for its loss did not say that it failed")
        call = _Call(shard, self._counted, agreement.starts, messages, self._loss, self._room_of_lse())
        loss = _Plain.apply(shard.logits, call)
        one = torch.ones((), dtype=shard.dtype)
        weight = one.expand(shard.row_shape) if self._counted is None else self._counted.to(shard.dtype)
        return CrossEntropyRows(loss, weight)

    def _room_of_lse(self) -> Tensor:
        if len(self._message) < HEAD + 8 * self._rows:  # ignored rows have no place in a message
            return torch.empty(self._rows, dtype=torch.float64)
        return self._message[HEAD : HEAD + 8 * self._rows].view(torch.float64)

    def _encode(self, shard: Shard) -> None:
        (exact, low, lse), self._sums = self._sums or (None, None, None), ()
        self._message[:HEAD] = 0
        try:
            if self._failure is None:
                _native(shard).encode(lse, exact, low, self._message, torch.get_num_threads())
        except Exception as error:
            self._failure = error
        if self._failure is not None:
            write_failure(self._message)


@dataclass(eq=False)
class _Call:
    """What the merge reads; `loss` and `lse` are written by it."""

    shard: Shard
    counted: Tensor | None
    starts: list[int]
    messages: Tensor
    loss: Tensor
    lse: Tensor


def _native(shard: Shard) -> _module.ShardRows:
    terms, target, logits = shard.terms, shard.target.reshape(-1), shard.logits.detach()
    softcap = terms.softcap or 0.0
    return _kernels().ShardRows(logits, target, shard.start, terms.ignore_index, softcap, terms.logit_scale)


def _problem(shard: Shard, counted: Tensor | None) -> _module.Problem:
    """The rows as if none had a target here; only ignored ones are told apart."""
    zero = torch.zeros((), dtype=torch.int64)
    target = zero.expand(shard.row_shape.numel()) if counted is None else counted.reshape(-1).long() - 1
    made = _kernels().Problem(shard.logits.detach(), target, None, None, None)
    made.set_options(-1, 0.0, 0.0, shard.terms.softcap or 0.0, shard.terms.logit_scale, 0.0)
    return made


class _Plain(torch.autograd.Function):
    """Loss of every row, z-term included, float32."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        logits, call = inputs
        shard, loss = call.shard, call.loss
        _native(shard).merge(call.messages, call.starts, shard.terms.z_loss, loss, call.lse, torch.get_num_threads())
        ctx.save_for_backward(logits)
        ctx.shard, ctx.counted, ctx.lse = shard, call.counted, call.lse
        return loss.view(shard.row_shape)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (logits,) = ctx.saved_tensors
        shard, lse, threads = ctx.shard, ctx.lse, torch.get_num_threads()
        buffer, of_lse = empty_gradient(logits), None
        if not shard.width:
            return buffer, None
        of_loss = whole = gradients[0].float().reshape(-1)
        if shard.terms.z_loss:
            of_lse = (2 * shard.terms.z_loss * of_loss * lse).float()
            whole = of_loss + of_lse
        into, upstream = buffer.detach(), _kernels().Upstream(lse=whole, saved_lse=lse)
        _kernels().cross_entropy_gradient(_problem(shard, ctx.counted), upstream, into, streams(buffer), threads)
        _native(shard).put_target_gradients(lse, of_loss, of_lse, into, threads)
        return buffer, None


def _kernels() -> ModuleType:
    return import_module("xent.backends.native._kernels")
