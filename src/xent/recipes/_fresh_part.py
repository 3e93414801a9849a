"""A part of the launcher's store that no earlier attempt has written to.

torchrun keeps one store for all its attempts. In it still lies what the ranks of an earlier one wrote: their addresses,
where they met, and that one of them has said why they end. The count of restarts can't tell attempts apart: on several
machines each launcher has its own. So rank 0 gives each attempt a name, and tells it to those who ask now.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch.distributed as dist

from xent.recipes._endings import LateError

_BETWEEN_LOOKS = 0.05  # seconds


def fresh_part(store: Any, rank: int, size: int, limit: float) -> Any:
    """The part of a store that the ranks of this attempt share; every rank makes the call.

    Args:
        store: of the launcher.
        rank: of this process.
        size: how many there are.
        limit: seconds to wait for the others.

    Raises:
        LateError: they did not come.
    """
    end = time.monotonic() + limit
    name = _named(store, size, end) if rank == 0 else _asked(store, rank, end)
    return dist.PrefixStore(f"xent/{name}", store)  # pyright: ignore[reportPrivateImportUsage]


def _named(store: Any, size: int, end: float) -> str:
    name, missing, answered = os.urandom(8).hex(), set(range(1, size)), set[bytes]()
    while missing := {rank for rank in missing if not store.check([f"xent/{name}/knows/{rank}"])}:
        for rank in missing:
            if store.check([f"xent/asks/{rank}"]):
                question = store.get(f"xent/asks/{rank}")  # that of an earlier attempt nobody waits for any more
                if question not in answered:
                    answered.add(question)
                    store.set(f"xent/answer/{question.decode()}", name)
        _wait(end, f"ranks {sorted(missing)} did not come")
    return name


def _asked(store: Any, rank: int, end: float) -> str:
    question = os.urandom(8).hex()
    store.set(f"xent/asks/{rank}", question)
    while not store.check([f"xent/answer/{question}"]):
        _wait(end, "rank 0 did not come")
    name = store.get(f"xent/answer/{question}").decode()
    store.set(f"xent/{name}/knows/{rank}", "")
    return name


def _wait(end: float, otherwise: str) -> None:
    if time.monotonic() > end:
        raise LateError(otherwise)
    time.sleep(_BETWEEN_LOOKS)
