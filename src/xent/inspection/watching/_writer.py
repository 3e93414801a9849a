"""Records on disk: one JSON object a line, each with the system before the training goes on; no fault is the run's."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import warnings
from io import FileIO
from pathlib import Path
from typing import Any


class RecordWriter:
    """Appends records to a file, until the disk is full or the file is closed.

    Attributes:
        path: the file.
        size: its bytes.
        stopped: why nothing is written any more; "" while it is.
    """

    def __init__(self, path: Path, file: FileIO, max_bytes: int) -> None:
        self.path, self.size, self.stopped = path, file.tell(), ""
        self._file, self._max_bytes, self._pid, self._lock = file, max_bytes, os.getpid(), threading.Lock()

    @property
    def thinning(self) -> int:
        """How much rarer records become, so that the file stays in bounds: 2 times from half of them on, 4 from ¾, …"""
        left = 1.0 - self.size / self._max_bytes
        return 1 if left > 0.5 else 1 << min(30, math.floor(-math.log2(max(left, 1e-9))))

    def write(self, record: dict[str, Any]) -> None:
        """Append one record, whole or not at all; a disk that does not take it is warned of once."""
        if self.stopped or os.getpid() != self._pid:  # a forked child's records are not this run's
            return
        line = as_line(record)
        with self._lock:
            if self.size + len(line) > self._max_bytes and record["kind"] not in ("end", "finding"):
                return
            try:
                self._append(line)
            except (OSError, ValueError) as error:  # ValueError: the file is closed
                self.stop(getattr(error, "strerror", None) or str(error), "make room for the next run")

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:]) or 0
        except OSError:
            if written:  # no half line stays
                os.truncate(self._file.fileno(), self.size)
            raise
        self.size += len(line)

    def stop(self, why: str, do: str) -> None:
        """Write nothing more, and say so once."""
        if self.stopped:
            return
        self.stopped = why
        message = f"xent watch: the recording to {self.path} stops ({why}), the training goes on; {do}"
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # warnings that are errors would end the training
            print(message, file=sys.stderr)

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def as_line(record: dict[str, Any]) -> bytes:
    """A record as JSON, numbers that are not finite as "nan", "inf" and "-inf"."""
    try:
        text = json.dumps(record, allow_nan=False, ensure_ascii=False, default=str)
    except ValueError:
        text = json.dumps(in_words(record), allow_nan=False, ensure_ascii=False, default=str)
    return text.encode(errors="replace") + b"\n"  # a lone surrogate is no UTF-8


def in_words(value: Any) -> Any:
    """The same with words for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: in_words(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_words(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
