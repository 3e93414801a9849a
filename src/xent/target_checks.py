"""`check_targets`: class indices on a GPU are marked there where they are out of range, and raised for later.

The host never waits for a good target. A loss call puts a few small kernels in the stream, which write the first call
with bad targets into `_Marks.there`, and a copy of that into pinned memory, which the host reads as it stands: no
event, no stream of its own, nothing that a CUDA graph could not capture. Only where it reads a mark does it wait.
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
    is behind. `check_targets` itself waits for the GPU: what earlier calls have marked, it raises for, then and there.
    The environment variable XENT_CHECK=1 begins a program with the check on.

    A CUDA graph marks at every replay, if a loss was checked on its GPU before the capture; what it marks raises
    outside. In a graph of `torch.compile` the kernels of the Triton backend mark; the reference formula does not.

    Args:
        on: whether to check from now on.

    Returns:
        Whether they were checked before.

    Raises:
        TargetRangeError: an earlier call had class indices out of range; it says how many, which, and the line of the
            call. Each bad call raises once, but for those between it and the error, which it stands for.

    Example:
        >>> import xent
        >>> before = xent.check_targets(True)
        >>> xent.check_targets(before)
        True
    """
    before, switch.on = switch.on, bool(on)
    for marks in list(_marks.values()):
        marks.wait_and_raise()
    if switch.on and torch.cuda.is_available() and torch.cuda.is_initialized():
        _marks_on(torch.device("cuda", torch.cuda.current_device()))
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


class _Site(NamedTuple):
    """What calls of one line have in common."""

    line: str
    num_classes: int
    ignore_index: int


class _Marks:
    """The first call with bad targets on one device: the numbers of `Found`, place, number of the call and its site."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.inference_mode(False):  # or no call outside that mode could write to it
            self.there = torch.zeros(9, dtype=torch.int64, device=device)
            self.here = torch.zeros(9, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
        self.calls = 0
        self.sites: dict[_Site, int] = {}
        self.lock = Lock()

    def mark(self, target: Tensor, num_classes: int, ignore_index: int) -> None:
        where = _Site(_line_of_the_call(), num_classes, ignore_index)
        with self.lock:  # or two threads would get one number
            self.calls += 1
            calls, number = self.calls, self.sites.setdefault(where, len(self.sites))
        with torch.no_grad():
            flat = target.reshape(-1)
            bad = out_of_range(flat, num_classes, ignore_index)
            whole = torch.iinfo(torch.int64)
            least, most = flat.masked_fill(~bad, whole.max).amin(), flat.masked_fill(~bad, whole.min).amax()
            ignored = flat == ignore_index
            lowest = flat.masked_fill(ignored, whole.max).amin()
            known = (len(flat), calls, number)  # to the device as the arguments of kernels, not as copies
            total, call, site = (torch.full((), value, dtype=torch.int64, device=self.device) for value in known)
            place = bad.to(torch.uint8).argmax()
            found = torch.stack([bad.sum(), least, most, total, lowest, ignored.sum(), place, call, site])
            self.there.copy_(torch.where(self.there[0] > 0, self.there, found))
            self.here.copy_(self.there, non_blocking=True)

    def raise_if_known(self) -> None:
        if _count_at(self.here) and not _is_captured(self.device):
            self.wait_and_raise()

    def wait_and_raise(self) -> None:
        with self.lock:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            *found, place, call, site = self.here.tolist()
            if not found[0]:
                return
            self.there.zero_()
            self.here.zero_()
        line, num_classes, ignore_index = list(self.sites)[site]
        where = f"row {place} in their order, in checked call {call} of {self.calls}, {line}"
        raise Found(*found).error(where, num_classes, ignore_index)


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


def _count_at(numbers: Tensor) -> int:
    """The first of the numbers, read as memory: no operation of torch, which might wait."""
    return ctypes.c_int64.from_address(numbers.data_ptr()).value


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _line_of_the_call() -> str:
    """The innermost line outside xent and torch."""
    frame = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return "at an unknown line" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@cache
def _is_ours(module: str) -> bool:
    return module.split(".", 1)[0] in ("xent", "torch")
