"""Runs programs in forks of one process that has torch loaded, so that two hundred of them cost seconds, not minutes.

    python -m tests.zoo._forks    reads one JSON request per line and answers each with one line

A fork runs either the program alone, as `python PROGRAM ARGS…` would, or `xent doctor` on it.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 20.0  # seconds for one program; the slowest takes about two


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit status, and what it wrote."""

    status: int
    stdout: bytes
    stderr: str


class Forks:
    """The client: starts the warm process and sends it requests."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zoo._forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=environment,
        )

    def run(
        self,
        argv: list[str],
        scratch: Path,
        *,
        doctor: bool,
        stdin: str = "",
        environments: tuple[dict[str, str], ...] = ({},),
    ) -> list[Outcome]:
        """Run `argv` once for each environment, at the same time, and wait for all."""
        (scratch / "stdin").write_text(stdin)
        request = {"argv": argv, "doctor": doctor, "scratch": str(scratch), "environments": environments}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        statuses = json.loads(self._process.stdout.readline())
        return [
            Outcome(status, (scratch / f"stdout{i}").read_bytes(), (scratch / f"stderr{i}").read_text())
            for i, status in enumerate(statuses)
        ]

    def close(self) -> None:
        self._process.communicate(timeout=30)  # closes its input: it ends


def serve() -> None:
    _warm_up()
    answers = os.fdopen(os.dup(1), "w")  # descriptor 1 is the programs'
    for line in sys.stdin:
        request = json.loads(line)
        children = [_fork(request, index) for index in range(len(request["environments"]))]
        print(json.dumps([_status_of(child) for child in children]), file=answers, flush=True)


def _warm_up() -> None:
    import torch
    import torch._dynamo  # the first optimizer loads it: a second for each program
    import torch.utils.data

    torch.set_num_threads(1)


def _fork(request: dict, index: int) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        _redirect(Path(request["scratch"]), index)
        os.environ.update(request["environments"][index])
        status = _doctor(request["argv"], index) if request["doctor"] else _plain(request["argv"])
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)
    raise AssertionError("unreachable")


def _redirect(scratch: Path, index: int) -> None:
    descriptors = [
        os.open(scratch / "stdin", os.O_RDONLY),
        os.open(scratch / f"stdout{index}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        os.open(scratch / f"stderr{index}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ]
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115 - what was read ahead belongs to the parent
    sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115


def _plain(argv: list[str]) -> int:
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).parent)
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        return _status(stop)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _doctor(argv: list[str], index: int) -> int:
    from xent.cli import main

    try:
        return main(["doctor", *(part.replace("{rank}", str(index)) for part in argv)])
    except SystemExit as stop:
        return _status(stop)


def _status(stop: SystemExit) -> int:
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _status_of(child: int) -> int:
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], TIMEOUT)[0]:
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    serve()
