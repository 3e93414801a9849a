"""Checks on real processes and gloo: spawned once for several checks, and ended after a limit whatever they do."""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

Check = Callable[..., Any]


@pytest.fixture
def on_processes(tmp_path) -> Callable[..., list[dict[str, Any]]]:
    """`on_processes(size, *checks, limit=, timeout=)`: for each rank what each check(rank, size) returned or raised.

    A rank that is killed, or hangs past `limit` seconds, has no entry for the check it was in. Both bounds only end
    what hangs: they are long enough for a machine that does other things meanwhile.
    """

    def run(size: int, *checks: Check, limit: float = 240, timeout: float = 120) -> list[dict[str, Any]]:
        context = mp.get_context("spawn")
        processes = [
            context.Process(target=_worker, args=(rank, size, checks, str(tmp_path), timeout)) for rank in range(size)
        ]
        end = time.monotonic() + limit
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(max(end - time.monotonic(), 0.1))
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [_read(tmp_path / f"{rank}.pkl") for rank in range(size)]

    return run


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if path.exists():
        with path.open("rb") as file:
            while True:
                try:
                    name, value = pickle.load(file)
                except EOFError:
                    break
                found[name] = value
    return found


def _worker(rank: int, size: int, checks: tuple[Check, ...], folder: str, timeout: float) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    with Path(folder, f"{rank}.pkl").open("ab") as file:
        for check in checks:
            torch.manual_seed(0)
            try:
                value: Any = check(rank, size)
            except Exception as error:
                value = Raised(type(error).__name__, str(error), traceback.format_exc())
            pickle.dump((check.__name__, value), file)
            file.flush()
    dist.destroy_process_group()


class Raised:
    """An exception of another process."""

    def __init__(self, kind: str, text: str, trace: str) -> None:
        self.kind, self.text, self.trace = kind, text, trace

    def __repr__(self) -> str:
        return self.trace


def value_of(results: list[dict[str, Any]], check: Check) -> list[Any]:
    """What a check returned on each rank; raises what a rank raised."""
    values = [result.get(check.__name__) for result in results]
    for rank, value in enumerate(values):
        assert not isinstance(value, Raised), f"rank {rank}: {value!r}"
    return values
