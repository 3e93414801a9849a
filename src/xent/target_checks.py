"""`check_targets`: class indices on a GPU are marked there where they are out of range, and raised for later.

The host never waits for a good target. A loss call puts a few small kernels in the stream, which write the first call
with bad targets into `_Marks.there`, and a copy of that into pinned memory, which the host reads as it stands: no
event, no stream of its own, nothing that a CUDA graph could not capture. Each stream writes into a row of its own, or
two would write over one another. Only where the host reads a mark does it wait.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from xent.errors import OptionError, TargetRangeError

_OFF = ("", "0", "false", "no", "off")


class _Switch:
    """Whether targets on a GPU are checked, for the whole process."""

    on = os.environ.get("XENT_CHECK", "0").lower() not in _OFF


switch = _Switch()


def check_targets(on: bool = True) -> bool:
    """Have class indices on a GPU checked, and raise for those that were found out of range until now.

    On a CPU they are checked always, before any work. On a GPU a class index outside [0, C) makes its row NaN, and
    nothing outside the logits is read. With the check on, the call of the loss marks it too, without waiting for the
    GPU; the next loss that has class indices on that GPU raises `TargetRangeError`, or the one after it where the GPU
    is behind. Classes that are spread over ranks (`xent.distributed`) are always checked, and raise at once: the call
    waits anyway. `check_targets` itself waits for the GPU: what earlier calls have marked, on any GPU, it raises for, then
    and there. The environment variable XENT_CHECK=1 begins a program with the check on.

    A CUDA graph marks at every replay, if a loss was checked on its GPU before the capture; what it marks raises
    outside. All graphs of a GPU mark in one place: of two that are replayed at the same time one may lose its mark; so
    may one of the streams of a GPU beyond the first 63.
    While a graph is captured nobody may wait for a GPU: `check_targets` then turns the check on or off and raises for
    nothing; the marks are kept for the next call outside. In a graph of `torch.compile` the kernels of the Triton
    backend mark; the reference formula does not. On devices other than CUDA every checked call waits.

    Args:
        on: whether to check from now on.

    Returns:
        Whether they were checked before.

    Raises:
        TargetRangeError: an earlier call had class indices out of range; it says how many, which, and the line of the
            call, for each GPU and stream that has one. Each bad call raises once, but for those of its stream between
            it and the error, which it stands for.

    Example:
        >>> import xent
        >>> before = xent.check_targets(True)
        >>> xent.check_targets(before)
        True
    """
    before, switch.on = switch.on, bool(on)
    if torch.cuda.is_initialized():
        here = torch.device("cuda", torch.cuda.current_device())
        if _is_captured(here):
            return before
        if switch.on:
            _marks_on(here)
    _raise_all([found for marks in list(_marks.values()) for found in marks.wait_and_take()])
    return before


def readable_at_once(tensor: Tensor) -> bool:
    """Whether reading a value makes nobody wait."""
    return tensor.device.type == "cpu"


def out_of_range(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Mask of the class indices outside [0, C) that are not `ignore_index`."""
    return ((target < 0) | (target >= num_classes)) & (target != ignore_index)


def look_later(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise for what earlier calls marked, as far as the host knows; then mark this call's class indices."""
    marks = _marks_on(target.device)
    marks.raise_if_known()
    marks.mark(target, num_classes, ignore_index)


class Found(NamedTuple):
    """What there is to say of targets with some out of range."""

    num_bad: int
    low: int
    high: int
    total: int
    lowest: int  # of the targets that are not ignored
    num_ignored: int

    def error(self, place: str, num_classes: int, ignore_index: int) -> TargetRangeError:
        """With the place of the first one."""
        values = f"{self.low} to {self.high}" if self.num_bad > 1 else f"{self.low}"
        return TargetRangeError(
            f"{self.num_bad} of {self.total} targets are out of bounds ({values}; the first at {place})",
            f"with C={num_classes} classes a target lies in [0, {num_classes - 1}] or is ignore_index={ignore_index}",
            self._mend(num_classes, ignore_index),
        )

    def _mend(self, num_classes: int, ignore_index: int) -> str:
        by_one = self.lowest >= 1 and self.high == num_classes
        if not by_one or 0 <= ignore_index < num_classes:  # class ignore_index + 1 would become it
            return "mend the labels"
        if self.num_ignored == 0:
            return "classes count from 0: pass target - 1"
        return f"classes count from 0: pass torch.where(target == {ignore_index}, target, target - 1)"


_ROWS = 64  # torch gives out 32 streams of a priority; made at once, since a capture may not make one
_CAPTURED = "captured"


class _Site(NamedTuple):
    """What calls of one line have in common."""

    line: str
    num_classes: int
    ignore_index: int


class _Marks:
    """The first call with bad targets in each stream of one device: the numbers of `Found`, place, call and site."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        shape = (_ROWS, 9)
        with torch.inference_mode(False):  # or no call outside that mode could write to it
            self.there = torch.zeros(shape, dtype=torch.int64, device=device)
            self.here = torch.zeros(shape, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
        self.calls = 0
        self.sites: dict[_Site, int] = {}
        self.rows: dict[int | str, int] = {_CAPTURED: 0}
        self.lock = Lock()  # or two threads would get one number, and write into one row in turns

    def mark(self, target: Tensor, num_classes: int, ignore_index: int) -> None:
        where = _Site(_line_of_the_call(), num_classes, ignore_index)
        with self.lock, torch.no_grad():
            self.calls += 1
            number = self.sites.setdefault(where, len(self.sites))
            found = _found(target.reshape(-1), where, self.calls, number)
            row = self.rows.setdefault(_stream_of(self.device), min(len(self.rows), _ROWS - 1))
            there, here = self.there[row], self.here[row]
            there.copy_(torch.where(there[0] > 0, there, found))
            # Only CUDA copies into pinned memory; elsewhere a copy that nobody waits for may be read half-written.
            here.copy_(there, non_blocking=self.device.type == "cuda")

    def raise_if_known(self) -> None:
        known = any(_count_at(self.here, row) for row in range(min(len(self.rows), _ROWS)))
        if known and not _is_captured(self.device):
            _raise_all(self.wait_and_take())

    def wait_and_take(self) -> list[tuple[torch.device, TargetRangeError]]:
        """Wait for what was marked, and forget it: one error for each stream that has a bad call, in their order."""
        with self.lock:
            self._wait()
            bad = sorted((numbers for numbers in self.here.tolist() if numbers[0]), key=lambda numbers: numbers[-2])
            if bad:
                self.there.zero_()
                self.here.zero_()
                self._wait()  # the stream that clears is not the one that marks next
        return [(self.device, self._error(numbers)) for numbers in bad]

    def _error(self, numbers: list[int]) -> TargetRangeError:
        *found, place, call, site = numbers
        line, num_classes, ignore_index = list(self.sites)[site]
        where = f"row {place} in their order, in checked call {call} of {self.calls}, {line}"
        return Found(*found).error(where, num_classes, ignore_index)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _found(flat: Tensor, site: _Site, call: int, number: int) -> Tensor:
    bad = out_of_range(flat, site.num_classes, site.ignore_index)
    whole = torch.iinfo(torch.int64)
    least, most = flat.masked_fill(~bad, whole.max).amin(), flat.masked_fill(~bad, whole.min).amax()
    ignored = flat == site.ignore_index
    lowest = flat.masked_fill(ignored, whole.max).amin()
    known = (len(flat), call, number)  # to the device as the arguments of kernels, not as copies
    total, at_call, at_site = (torch.full((), value, dtype=torch.int64, device=flat.device) for value in known)
    place = bad.to(torch.uint8).argmax()
    return torch.stack([bad.sum(), least, most, total, lowest, ignored.sum(), place, at_call, at_site])


def _raise_all(found: list[tuple[torch.device, TargetRangeError]]) -> None:
    """Raise the only one as it is, several as one that names each."""
    if not found:
        return
    errors = [error for _, error in found]
    if len(errors) == 1:
        raise errors[0]
    raise TargetRangeError(
        "; ".join(f"on {device}, {error.got}" for device, error in found),
        "; ".join(dict.fromkeys(error.need for error in errors)),
        "; ".join(dict.fromkeys(error.do for error in errors)),
    )


_marks: dict[torch.device, _Marks] = {}


def _marks_on(device: torch.device) -> _Marks:
    marks = _marks.get(device)
    if marks is not None:
        return marks
    if _is_captured(device):
        raise OptionError(
            f"a CUDA graph is captured on {device}, where no loss was checked before",
            "the memory that marks bad targets must be there before",
            "call the loss once before the capture, or xent.check_targets(False)",
        )
    return _marks.setdefault(device, _Marks(device))


def _count_at(here: Tensor, row: int) -> int:
    """The first number of a row, read as memory: no operation of torch, which might wait."""
    return ctypes.c_int64.from_address(here.data_ptr() + row * here.stride(0) * here.element_size()).value


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _stream_of(device: torch.device) -> int | str:
    if device.type != "cuda":
        return device.type
    return _CAPTURED if _is_captured(device) else torch.cuda.current_stream(device).cuda_stream


def _line_of_the_call() -> str:
    """The innermost line outside xent and torch."""
    frame = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return "at an unknown line" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@cache
def _is_ours(module: str) -> bool:
    return module.split(".", 1)[0] in ("xent", "torch")
