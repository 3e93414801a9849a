"""Processes that run `xent` as the ranks of one training, again and again, so that torch is loaded once.

They are forks of one server that has loaded torch, and meet as torchrun has them meet: through the environment.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

MOST = 4
_CONTEXT = mp.get_context("forkserver")


@dataclass(frozen=True)
class Done:
    """What a rank ended with; status None where it was killed."""

    status: int | None
    stdout: str = ""
    stderr: str = ""


class Ranks:
    """Up to `MOST` processes; one that dies is replaced."""

    def __init__(self) -> None:
        _CONTEXT.set_forkserver_preload(["tests.recipes.ranks_preload"])
        self._ends: dict[int, tuple[Any, Any]] = {}

    def start(self, size: int, *arguments: str, fault: Callable[[int, Any], None] | None = None) -> None:
        """Run the command line on `size` ranks; `fault(rank, monkeypatch)` first spoils something on each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(size):
            _, pipe = self._rank(rank)
            pipe.send((size, port, arguments, fault))

    def pid(self, rank: int) -> int:
        """Of a rank."""
        return self._rank(rank)[0].pid

    def wait(self, size: int, limit: float = 300) -> list[Done]:
        """What each rank ended with.

        Raises:
            AssertionError: one has not, within `limit` seconds.
        """
        end, found = time.monotonic() + limit, []
        for rank in range(size):
            process, pipe = self._ends[rank]
            try:
                if not pipe.poll(max(end - time.monotonic(), 0.1)):
                    process.kill()
                    self._ends.pop(rank)
                    raise AssertionError(f"rank {rank} has not ended within {limit} s")
                found.append(pipe.recv())
            except (EOFError, ConnectionError):
                found.append(Done(None))
                process.join()
                self._ends.pop(rank)
        return found

    def run(self, size: int, *arguments: str, fault: Any = None, limit: float = 300) -> list[Done]:
        """Start, and wait."""
        self.start(size, *arguments, fault=fault)
        return self.wait(size, limit)

    def close(self) -> None:
        """End them."""
        for process, _ in self._ends.values():
            process.kill()
            process.join()
        self._ends.clear()

    def _rank(self, rank: int) -> tuple[Any, Any]:
        if rank not in self._ends:
            here, there = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(there, rank), daemon=True)
            process.start()
            there.close()
            self._ends[rank] = process, here
        return self._ends[rank]


def _serve(pipe: Any, rank: int) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            size, port, arguments, fault = pipe.recv()
        except EOFError:
            return
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "120"}  # fmt: skip
        os.environ.update(where)
        pipe.send(_run(arguments, rank, fault))


def _run(arguments: tuple[str, ...], rank: int, fault: Any) -> Done:
    import torch.distributed as dist

    from xent.cli import main

    with pytest.MonkeyPatch.context() as monkeypatch, _captured() as (out, err):
        if fault:
            fault(rank, monkeypatch)
        try:
            status = main(list(arguments))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            err.write(f"{type(error).__name__}: {error}")
            status = 1
        if dist.is_initialized():
            dist.destroy_process_group()  # as the end of a process does
        out.flush()
        err.flush()
        return Done(status, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())


@contextmanager
def _captured() -> Iterator[Any]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    try:
        yield sys.stdout, sys.stderr
    finally:
        sys.stdout, sys.stderr = before
