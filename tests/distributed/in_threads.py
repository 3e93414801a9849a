"""A group of ranks that are threads of this process, for grids too large for processes: same calls, same order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from xent.distributed._ranks import Pending

PATIENCE = 60  # seconds; a rank that never comes ends the test


class ThreadRanks:
    """One rank; all of a group share `slots` and `barrier`. Counts collectives and bytes."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self._slots, self._barrier = rank, len(slots), slots, barrier
        self.sent: list[tuple[str, int]] = []

    def _all(self, kind: str, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.sent.append((kind, tensor.nbytes))
        self._slots[self.rank] = tensor.detach().clone()
        self._barrier.wait(PATIENCE)
        found = list(self._slots)
        self._barrier.wait(PATIENCE)
        return found

    def gather(self, message: torch.Tensor, into: torch.Tensor | None = None) -> Pending:
        found = torch.stack(self._all("gather", message))
        found = found if into is None else into.copy_(found)
        return Pending(lambda: None, found)

    def add(self, tensor: torch.Tensor) -> Pending:
        found = self._all("add", tensor)
        total = found[0]
        for part in found[1:]:  # each sum rounded to the dtype, as a ring does
            total = total + part
        tensor.copy_(total)
        return Pending(lambda: None, tensor)


def on_ranks(size: int, work: Callable[[ThreadRanks], Any]) -> list[Any]:
    """What `work` returns, or raises, on each of `size` ranks."""
    slots: list[Any] = [None] * size
    barrier, results = threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, slots, barrier))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    return results
