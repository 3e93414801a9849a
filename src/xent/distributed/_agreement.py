"""What the ranks of a call tell each other before any work: sizes, options, a digest of the targets, and errors.

One message of 72 bytes a rank. It may fly while the first logits are made. After it every rank knows where its classes
begin, and a call that can't succeed raises on all of them, with the cause.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xent.distributed._ranks import Pending, Ranks, raise_together
from xent.distributed._shard import Shard
from xent.distributed._wire import Room
from xent.errors import DtypeError, OptionError, ShapeError, TargetRangeError, XentError
from xent.problem import check_target_range

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers of so many bytes
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FAILED, _MADE, _MADE_PLAIN = 1, 0, 2  # the first number
_FIELDS = ("word", "width", "rows", "form", "entries", "dtype", "options", "target", "mass")


@dataclass(frozen=True, eq=False)
class Part:
    """What the ranks agree about, before it is known where a rank's classes begin.

    Attributes:
        shard: the rank's part, as if it began at class 0.
        options: every other option that must be the same on all ranks.
        is_plain: whether this rank can take the rows as `_plain_rows` does.
    """

    shard: Shard
    options: tuple[object, ...] = ()
    is_plain: bool = False


@dataclass(frozen=True, eq=False)
class Agreement:
    """What is known of all ranks.

    Attributes:
        starts: the first class of each rank, and at the end V.
        masses: ε / V · Σ_c w_c of each rank, float64.
        is_plain: whether every rank can take the rows as `_plain_rows` does: two ways of merging could differ in a bit.
        failure: what this rank alone ran into since it told of itself; it travels with the states.
    """

    starts: list[int]
    masses: Tensor
    is_plain: bool = False
    failure: Exception | None = None


class Agreeing:
    """A call whose ranks are telling each other of it.

    Attributes:
        part: the rank's; None if it failed.
        room: for the messages that follow; None if it failed.
    """

    def __init__(self, ranks: Ranks, device: torch.device, make: Callable[[], Part]) -> None:
        self.ranks, self.failure = ranks, None
        self.part: Part | None = None
        self.room: Room | None = None
        header = [_FAILED] + [0] * (len(_FIELDS) - 1)
        try:
            part = make()
            room = Room(part.shard, ranks.size)
            header = _header(part)
            self.part, self.room = part, room
        except Exception as error:  # whatever it is, the others must hear of it
            self.failure = error
        self._pending: Pending = ranks.gather(torch.tensor(header, dtype=torch.int64).to(device))

    def finish(self) -> tuple[Shard, Agreement, Room]:
        """The shard with its place among the others, and room for what follows, once all have told.

        Raises:
            XentError: a rank failed, or the ranks do not fit each other; on every rank.
        """
        headers = self._pending.wait()
        numbers_of = headers.tolist()
        if any(numbers[0] == _FAILED for numbers in numbers_of):
            raise_together(self.ranks, self.failure, headers[:, 0] == _FAILED)
        told: list[dict[str, int]] = [dict(zip(_FIELDS, numbers, strict=True)) for numbers in numbers_of]
        _check_equal(told)
        if self.part is None or self.room is None:
            raise RuntimeError("a rank without a part did not say that it failed")
        shard, starts = self.part.shard, [0]
        for numbers in told:
            starts.append(starts[-1] + numbers["width"])
        if starts[-1] == 0:
            raise ShapeError("no rank has a class", "a loss needs at least one", "pass the shards of the logits")
        shard = replace(shard, start=starts[self.ranks.rank], total=starts[-1])
        failure = None if shard.is_dense else _check_range(shard)
        share = shard.terms.label_smoothing / shard.total
        masses = torch.tensor([_as_float(numbers["mass"]) * share for numbers in told], dtype=torch.float64)
        is_plain = all(numbers["word"] == _MADE_PLAIN for numbers in told)
        return shard, Agreement(starts, masses, is_plain, failure), self.room


def _check_range(shard: Shard) -> Exception | None:
    """Raise for a target out of range, as every rank does: their targets are the same. Another failure is returned."""
    try:
        check_target_range(shard.target, shard.total, shard.terms.ignore_index, may_wait=True)
    except TargetRangeError:
        raise
    except Exception as error:
        return error
    return None


def _header(part: Part) -> list[int]:
    shard, terms = part.shard, part.shard.terms
    options = (
        terms.ignore_index, terms.label_smoothing, terms.z_loss, terms.softcap, terms.logit_scale, terms.reduction,
        terms.weight is None, _digest_of_numbers(terms.row_weight), _digest_of_numbers(terms.normalizer),
        shard.with_stats, *part.options,
    )  # fmt: skip
    weight = shard.class_weight()
    total = float(shard.width) if weight is None else float(weight.detach().sum(dtype=torch.float64))
    return [
        _MADE_PLAIN if part.is_plain else _MADE,
        shard.width,
        shard.row_shape.numel(),
        0 if shard.is_hard else (1 if shard.is_dense else 2),
        0 if shard.probabilities is None else shard.probabilities.shape[-1],
        _DTYPES.index(shard.logits.dtype) if shard.logits.dtype in _DTYPES else len(_DTYPES),
        zlib.crc32(repr(options).encode()),
        0 if shard.is_dense else _digest(shard.target),
        _as_int(total),
    ]


def _digest_of_numbers(numbers: float | Tensor | None) -> float | None:
    """A number that another value changes; of a normalizer on a GPU only that it is given."""
    if numbers is None or not isinstance(numbers, Tensor):
        return None if numbers is None else float(numbers)
    if not numbers.ndim:
        return float(numbers.detach()) if numbers.device.type == "cpu" else 0.0
    return _digest(numbers.detach().contiguous().view(_BITS[numbers.dtype.itemsize]))


def _as_int(number: float) -> int:
    """The bits of a float64."""
    return struct.unpack("q", struct.pack("d", number))[0]


def _as_float(bits: int) -> float:
    return struct.unpack("d", struct.pack("q", bits))[0]


def _digest(target: Tensor) -> int:
    """A number that another order, or another target, changes."""
    flat = target.detach().reshape(-1)
    if flat.device.type == "cpu":
        return zlib.crc32(flat.contiguous().numpy())  # pyright: ignore[reportArgumentType]  (numpy's stubs lack it)
    return int((flat * torch.arange(1, 2654435761 * flat.numel() + 1, 2654435761, device=flat.device)).sum())


_QUESTIONS: dict[str, tuple[type[XentError], str, str, str]] = {
    "rows": (ShapeError, "rows", "every rank of the group scores the same rows", "pass the same rows on all of them"),
    "form": (
        OptionError, "form of target (0 indices, 1 probabilities, 2 sparse)", "the ranks take targets of one form",
        "pass class indices, or the rank's shard of the probabilities, on all of them",
    ),
    "entries": (ShapeError, "entries of a sparse target", "each rank takes the same", "pass the same target on all"),
    "dtype": (DtypeError, "number of the logits' dtype", "the shards have one dtype", "cast them to one dtype"),
    "options": (OptionError, "digest of the options", "the ranks make the call with the same options",
                "compare ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, stats, whether weight "
                "is given, and the values of row_weight and normalizer"),
    "target": (OptionError, "digest of the targets", "every rank of the group is given the same targets",
               "broadcast the batch over the group, or seed its sampler with the number of the data-parallel rank"),
}  # fmt: skip


def _check_equal(told: list[dict[str, int]]) -> None:
    for name, (error, what, need, do) in _QUESTIONS.items():
        for rank, numbers in enumerate(told):
            if numbers[name] != told[0][name]:
                raise error(f"rank 0 has {told[0][name]} and rank {rank} {numbers[name]} for {what}", need, do)
