"""Processes that run `xent` as the ranks of one training, again and again, so that torch is loaded once.

They are forks of one server that has loaded torch, and meet as under torchrun: through the environment, and in a store
that outlives them.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
import torch.distributed as dist

_CONTEXT = mp.get_context("forkserver")


@dataclass(frozen=True)
class Done:
    """What a rank ended with; status None where it was killed."""

    status: int | None
    stdout: str = ""
    stderr: str = ""


class Ranks:
    """As many processes as are asked for; one that ends is replaced."""

    def __init__(self) -> None:
        _CONTEXT.set_forkserver_preload(["tests.recipes.ranks_preload"])
        self._ends: dict[int, tuple[Any, Any]] = {}
        self._busy: set[int] = set()
        self._store: Any = None

    def start(
        self, size: int, *arguments: str, fault: Callable[[int, Any], None] | None = None, again: bool = False
    ) -> None:
        """Run the command line on `size` ranks.

        Args:
            size: how many.
            arguments: of `xent`.
            fault: `fault(rank, monkeypatch)` first spoils something on each.
            again: meet in the store of the last time, as the second attempt of torchrun does.
        """
        for rank in list(self._busy):  # of a test that gave up
            self._end(rank)
        if not again:
            self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for rank in range(size):
            _, pipe = self._rank(rank)
            pipe.send((size, self._store.port, arguments, fault))
            self._busy.add(rank)

    def pid(self, rank: int) -> int:
        """Of a rank."""
        return self._rank(rank)[0].pid

    def pipe(self, rank: int) -> Any:
        """Where a rank says what it ended with."""
        return self._rank(rank)[1]

    def wait(self, size: int, limit: float = 300) -> list[Done]:
        """What each rank ended with.

        Raises:
            AssertionError: one has not, within `limit` seconds.
        """
        end, found = time.monotonic() + limit, []
        for rank in range(size):
            pipe = self._ends[rank][1]
            try:
                assert pipe.poll(max(end - time.monotonic(), 0.1)), f"rank {rank} has not ended within {limit} s"
                found.append(pipe.recv())
                self._busy.discard(rank)
            except (EOFError, ConnectionError):
                found.append(Done(None))
            if found[-1].status != 0:
                self._end(rank)
        return found

    def run(self, size: int, *arguments: str, fault: Any = None, again: bool = False, limit: float = 300) -> list[Done]:
        """Start, and wait."""
        self.start(size, *arguments, fault=fault, again=again)
        return self.wait(size, limit)

    def close(self) -> None:
        """End them."""
        for rank in list(self._ends):
            self._end(rank)

    def _end(self, rank: int) -> None:
        process, _ = self._ends.pop(rank)
        self._busy.discard(rank)
        process.kill()
        process.join()

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
                 "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "120",
                 "TORCHELASTIC_USE_AGENT_STORE": "True"}  # fmt: skip
        os.environ.update(where)
        done = _run(arguments, rank, fault)
        pipe.send(done)
        if done.status:
            return  # so that its connections close, as those of a command do


def _run(arguments: tuple[str, ...], rank: int, fault: Any) -> Done:
    from xent.cli import main
    from xent.inspection.watching import _place

    with pytest.MonkeyPatch.context() as monkeypatch, _captured() as (out, err):
        monkeypatch.setattr(_place, "_watches", count(1))  # as in a process of its own
        if fault:
            fault(rank, monkeypatch)
        try:
            status = main(list(arguments))
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException as error:
            err.write(f"{type(error).__name__}: {error}")
            status = 1
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
