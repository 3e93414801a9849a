"""Peak extra memory, measured.

`peak_extra_bytes` resets the high-water mark of the process's resident memory (Linux: "5" into /proc/self/clear_refs),
calls, and reads the mark (VmHWM) again: every allocator counts, tensors, XLA's arenas and oneDNN's scratch pads alike,
and a page counts once it is touched. It runs in a fresh process for each contestant (`probe.py`), after warm-up calls
(so that compiling is not counted) and after the C library was told to give freed memory back.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

METHOD = "peak resident memory of a fresh process during one call after warm-up, less what it held before (VmHWM)"
_STARTING_SECONDS = 120  # importing torch and jax, building inputs
_POLL_SECONDS = 0.2


def peak_extra_bytes(function: Callable[[], Any]) -> int | None:
    """How far the resident memory of this process rose while `function` ran; None where the system can't say."""
    gc.collect()
    with suppress(AttributeError, OSError):  # where the C library is not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    result = function()
    peak = _status_bytes("VmHWM")
    del result
    return max(0, peak - before)


@dataclass(frozen=True)
class Probe:
    """One contestant of one case in a process of its own.

    Attributes:
        question: name of the question.
        case: name of the case.
        contestant: name of the contestant.
        threads: of torch.
        quick: whether the case is one of the small ones.
        limit: seconds that one call may take.
    """

    question: str
    case: str
    contestant: str
    threads: int
    quick: bool
    limit: float

    def run(self) -> dict[str, Any]:
        """{"extra_bytes", "seconds"}, or {"note"} that says why there is no number.

        A process that computes for three times the limit is stopped; "at_least_ms" is then what its first call has
        taken, or "single_ms" what it took.
        """
        command = [sys.executable, "-m", "xent.bench.probe", self.question, self.case, self.contestant]
        command += ["--threads", str(self.threads), *(["--quick"] if self.quick else [])]
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(command, stdout=said, stderr=errors, text=True)
            try:
                stopped = self._stopped(process, said)
            finally:
                process.kill()
                process.wait()
            if stopped:
                return stopped
            if process.returncode:
                return {"note": _last_words(process.returncode, _content(errors))}
            return json.loads(_content(said).splitlines()[-1])

    def _stopped(self, process: subprocess.Popen[str], said: IO[str]) -> dict[str, Any] | None:
        """Wait for the end; why it was not waited for."""
        started, begun = time.monotonic(), None
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            lines = _content(said).splitlines()
            if begun is None and lines:
                begun = time.monotonic()
            if begun is None and time.monotonic() - started > _STARTING_SECONDS + self.limit:
                return {"note": f"a process of its own was not ready after {_STARTING_SECONDS + self.limit:g} s"}
            if begun is not None and time.monotonic() - begun > 3 * self.limit:
                if len(lines) > 1:  # the first call is over
                    return json.loads(lines[1])
                seconds = 3 * self.limit
                note = f"over the time limit: its first call was stopped after {seconds:g} s"
                return {"note": note, "at_least_ms": round(1e3 * seconds, 1)}
        return None


def _last_words(status: int, stderr: str) -> str:
    if status == -9:
        return "killed by the system, most likely for lack of memory"
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return f"failed: {lines[-1][:200]}" if lines else f"failed with status {status}"


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
