"""Several processes that score one corpus: each takes the next shard when it is ready, and rank 0 merges what all did.

    torchrun --nproc-per-node 4 --no-python xent score MODEL TEXTS --out scores.parquet

What they tell each other stands in a key-value store (torchrun's own), so that nobody waits for another but rank 0, at
the end, and none of them can hang in a collective:

    taken       how many shards were taken             failed      the first rank that failed; it alone says why
    tokens      how many tokens were scored            done R      what rank R did
    alive R     signs of life of rank R
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from xent.errors import DistributedError
from xent.recipes._launcher import told_number, told_size

_PATIENCE = timedelta(minutes=5)  # for the store to answer
_BEAT = 2.0  # seconds between signs of life
_POLL = 0.1  # seconds between looks at the store
_SILENT_POLLS = 900  # looks without a sign of life; counted, because a machine that was frozen has no clock to trust
_LEAVE = 5.0  # seconds in which a rank that failed says why, before the others end (torchrun then ends it, too)
_PIECE = 4 << 20  # bytes of a value; a TCPStore takes 8 MiB


class Sharing:
    """This process alone: it takes every shard, and tells nobody.

    Attributes:
        rank: of this process.
        size: how many there are.
        terminated: whether SIGTERM ended the work, which is what torchrun sends when another rank has ended.
    """

    rank, size, terminated = 0, 1, False

    def __init__(self) -> None:
        self._tokens = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process: of several on one machine each has its own GPU."""
        return name

    def takes(self, shard: int) -> bool:
        """Whether this process scores a shard; asked with rising numbers."""
        del shard
        return True

    def count(self, tokens: int) -> int:
        """Add scored tokens; how many there are of all processes."""
        self._tokens += tokens
        return self._tokens

    def collected(self, done: dict[str, Any]) -> list[dict[str, Any]] | None:
        """What every rank did, in their order, on rank 0; None on the others."""
        return [done]


class SharedWork(Sharing):
    """One of several processes that share a store of torch.distributed."""

    def __init__(self, rank: int, size: int, store: Any) -> None:
        super().__init__()
        self.rank, self.size, self._store = rank, size, store
        self._next = -1
        self._ended = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def device(self, name: str) -> str:
        """The GPU with this process's number on its machine."""
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name

    def takes(self, shard: int) -> bool:
        """Whether it is the one that this process drew from the counter.

        Raises:
            SystemExit: another rank failed.
        """
        if self._next < shard:
            self._leave_if_failed()
            self._next = self._told(lambda: self._store.add("taken", 1)) - 1
        return self._next == shard

    def count(self, tokens: int) -> int:
        """Add scored tokens; how many there are of all processes."""
        return self._told(lambda: self._store.add("tokens", tokens))

    def collected(self, done: dict[str, Any]) -> list[dict[str, Any]] | None:
        """What every rank did, in their order, on rank 0.

        Raises:
            DistributedError: a rank gave no sign of life any more.
            SystemExit: a rank failed.
        """
        if not self.is_first:
            self._say(done)
            return None
        return [done if rank == 0 else self._heard(rank) for rank in range(self.size)]

    def claims_failure(self) -> bool:
        """Whether this rank is the first that failed, and says why."""
        try:
            return self._store.compare_set("failed", "", str(self.rank)).decode() == str(self.rank)
        except RuntimeError:  # the store is gone, and nobody else can be asked
            return True

    def end(self) -> None:
        """No more signs of life."""
        self._ended.set()

    def _say(self, done: dict[str, Any]) -> None:
        content = zlib.compress(json.dumps(done).encode())
        pieces = [content[begin : begin + _PIECE] for begin in range(0, len(content), _PIECE)]
        for number, piece in enumerate(pieces):
            self._told(lambda number=number, piece=piece: self._store.set(f"done {self.rank} {number}", piece))
        self._told(lambda: self._store.set(f"done {self.rank}", str(len(pieces))))

    def _heard(self, rank: int) -> dict[str, Any]:
        self._wait_for(f"done {rank}", rank)
        count = int(self._told(lambda: self._store.get(f"done {rank}")))
        pieces = [self._told(lambda n=number: self._store.get(f"done {rank} {n}")) for number in range(count)]
        return json.loads(zlib.decompress(b"".join(pieces)))

    def _wait_for(self, key: str, rank: int) -> None:
        last, silent = b"", 0
        while not self._told(lambda: self._store.check([key])):
            self._leave_if_failed()
            sign = self._told(lambda: self._store.compare_set(f"alive {rank}", "", "0"))
            last, silent = sign, 0 if sign != last else silent + 1
            if silent > _SILENT_POLLS:
                raise DistributedError(
                    f"rank {rank} of {self.size} gave no sign of life for {_SILENT_POLLS * _POLL:.0f} seconds",
                    "every rank scores its shards to the end",
                    "see whether it was killed; the same command goes on from the parts of --out",
                )
            time.sleep(_POLL)

    def _leave_if_failed(self) -> None:
        if not self._told(lambda: self._store.check(["failed"])):
            return
        time.sleep(_LEAVE)
        raise SystemExit(1)

    def _beat(self) -> None:
        number = 0
        while not self._ended.wait(_BEAT):
            number += 1
            try:
                self._store.set(f"alive {self.rank}", str(number))
            except RuntimeError:
                return  # the main thread hears of it

    def _told(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RuntimeError as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} lost the store of the ranks ({str(error).splitlines()[0]})",
                "torchrun, or rank 0 without it, keeps it until all are done",
                "read the first error of the others; the same command goes on from the parts of --out",
            ) from error


@contextmanager
def sharing_of_processes() -> Iterator[Sharing]:
    """The work with the other processes that torchrun started; alone where there are none.

    If it fails on several, the first says why; the others end with status 1 in silence.

    Raises:
        OptionError: there are several, and what torchrun tells them is not there.
        DistributedError: the store does not answer.
    """
    size = told_size()
    if size == 1:
        yield Sharing()
        return
    rank = told_number("RANK")
    shared = SharedWork(rank, size, _store(rank))
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _terminating(shared))
    try:
        yield shared
    except BaseException as error:
        if not isinstance(error, SystemExit) and not shared.claims_failure():
            raise SystemExit(1) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        shared.end()


def _terminating(shared: SharedWork) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        shared.terminated = True
        raise KeyboardInterrupt  # parts are whole or not there, whenever it comes

    return stop


def _store(rank: int) -> Any:
    import torch.distributed

    dist: Any = torch.distributed  # documented there, and not in its stubs
    host, port = os.environ.get("MASTER_ADDR", "localhost"), told_number("MASTER_PORT")
    of_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            host, port, is_master=rank == 0 and not of_torchrun, timeout=_PATIENCE, wait_for_workers=False
        )
    except RuntimeError as error:
        raise DistributedError(
            f"rank {rank} finds no store at {host}:{port} ({str(error).splitlines()[0]})",
            "torchrun, or rank 0 without it, keeps it",
            "check MASTER_ADDR, MASTER_PORT and the network",
        ) from error
    return dist.PrefixStore(f"xent score {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
