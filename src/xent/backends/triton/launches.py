"""How a row kernel is cut: rows and columns of a program's tile, and its warps.

The first call on a GPU with a new kernel, dtype, number of classes and layout measures a few launches and keeps the
fastest, in memory and in a JSON file of the user's cache directory (`cache_file`), where it can be read, edited and
deleted. XENT_AUTOTUNE=0 leaves it at the heuristic. Under the interpreter, while a CUDA graph is captured, inside a
compiled graph's first trace and for few logits nothing is measured.

A sum depends on the order of its terms, and that on the tile: results are bitwise equal for equal launches.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from xent.backends.triton import INTERPRETED

_MEASURED_FROM = 1 << 22  # logits; below, a wrong choice costs microseconds
_TILE = 4096  # elements of a tile that the heuristic aims at: 32 for each thread of 4 warps
_WIDEST = 8192
_HEAD_START = 1 << 19  # clocks, a quarter of a millisecond: the host has queued the kernel before its time begins
_FILE = "triton_launches.json"
_LINES = 32  # rows side by side where the classes are strided: 128 bytes of float32


@dataclass(frozen=True)
class Launch:
    """The shape of a program: both sizes are powers of two, as Triton needs."""

    rows: int
    columns: int
    warps: int

    def __str__(self) -> str:
        return f"{self.rows} × {self.columns} logits a program, {self.warps} warps"


@dataclass(frozen=True)
class Question:
    """What a launch depends on."""

    kernel: str
    dtype: str
    classes: int
    num_inner: int
    strided: bool
    device: str

    @property
    def key(self) -> str:
        """The name of its answer in the file; rows count by their power of two."""
        layout = "strided" if self.strided else "contiguous"
        return f"{self.device}/{self.kernel}/{self.dtype}/{self.classes} classes/{_power(self.num_inner)} rows/{layout}"


def _power(number: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << max(number - 1, 0).bit_length()


def heuristic(question: Question) -> Launch:
    """A launch that is good for most: a tile of some thousand logits."""
    most_rows = _power(max(question.num_inner, 1))
    if question.strided:
        rows = min(_LINES, most_rows)
        columns = min(_power(question.classes), max(_TILE // rows, 1))
        return _with_warps(rows, columns)
    columns = min(_power(question.classes), _WIDEST)
    rows = 1 if columns < question.classes else min(max(_TILE // columns, 1), most_rows)
    return _with_warps(rows, columns)


def _with_warps(rows: int, columns: int) -> Launch:
    warps = min(max(rows * columns // 512, 1), 16)
    return Launch(rows, columns, warps)


def candidates(question: Question) -> list[Launch]:
    """The launches that are measured, the heuristic's among them."""
    first = heuristic(question)
    others = []
    for factor in (1, 2, 4, 8):
        for smaller in (Launch(first.rows, max(first.columns // factor, 1), first.warps),
                        Launch(max(first.rows // factor, 1), first.columns, first.warps)):  # fmt: skip
            if smaller.columns < question.classes and smaller.rows > 1 and not question.strided:
                continue
            size = smaller.rows * smaller.columns
            others += [Launch(smaller.rows, smaller.columns, warps) for warps in (4, 8, 16, 32)
                       if 4 <= size // (warps * 32) <= 64]  # fmt: skip
    return list(dict.fromkeys([first, *others]))


_choices: dict[str, Launch] = {}
_file_is_read = False


def launch_for(question: Question, logits: int, run: Callable[[Launch], object] | None) -> Launch:
    """The launch of a call with so many logits; `run` makes the call and may be repeated, or is None if it may not."""
    if not _may_measure(logits):
        return heuristic(question)
    _read_file()
    known = _choices.get(question.key)
    if known is not None or run is None or torch.cuda.is_current_stream_capturing():
        return known or heuristic(question)
    best = min(candidates(question), key=lambda launch: _milliseconds(run, launch))
    _choices[question.key] = best
    _write_file()
    return best


def is_settled(question: Question, logits: int) -> bool:
    """Whether the launch of such a call will be the same from now on."""
    return not _may_measure(logits) or question.key in _choices


def choice_in_words(question: Question, logits: int) -> str:
    """What `xent.choices()` says of the launch."""
    if not _may_measure(logits):
        return f"{heuristic(question)} (not measured)"
    _read_file()
    known = _choices.get(question.key)
    place = cache_file() or "kept by this process alone: its user has no home directory"
    return f"{known} (measured; {place})" if known else f"{heuristic(question)} (to be measured)"


def _may_measure(logits: int) -> bool:
    return logits >= _MEASURED_FROM and not INTERPRETED and os.environ.get("XENT_AUTOTUNE", "1") != "0"


def _milliseconds(run: Callable[[Launch], object], launch: Launch) -> float:
    """The fastest of five, after one to compile; infinite for a launch that does not fit the GPU."""
    from triton.runtime.errors import OutOfResources

    try:
        run(launch)
    except OutOfResources:
        return float("inf")
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(_HEAD_START)
        begin.record()
        run(launch)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)


def cache_file() -> Path | None:
    """Where measured launches are kept: XENT_CACHE_DIR, or the user's cache directory; None for a user without home."""
    given = os.environ.get("XENT_CACHE_DIR")
    if given:
        return Path(given) / _FILE
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache") / "xent" / _FILE
    except RuntimeError:  # a number of a container's user that no list has, and no HOME
        return None


def _read_file() -> None:
    global _file_is_read
    path = cache_file()
    if _file_is_read or path is None:
        return
    _file_is_read = True
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        read = {key: Launch(**entry) for key, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # no file, or not one of ours: measured anew
        return
    _choices.update({key: launch for key, launch in read.items() if _is_sound(launch) and key not in _choices})


def _is_sound(launch: Launch) -> bool:
    return all(
        isinstance(size, int) and size > 0 and size & (size - 1) == 0
        for size in (launch.rows, launch.columns, launch.warps)
    ) and launch.warps <= 32 and launch.rows * launch.columns <= 1 << 20  # fmt: skip


def _write_file() -> None:
    """Replaced whole, so that two processes never mix their lines; a directory that can't be written is left alone."""
    path = cache_file()
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({key: asdict(launch) for key, launch in sorted(_choices.items())}, file, indent=1)
        Path(file.name).replace(path)
    except OSError:
        return
