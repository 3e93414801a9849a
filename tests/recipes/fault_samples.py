"""What goes wrong on one rank of a language_model training, for `Ranks.start(fault=)`."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xent.errors import DataError

_STEP = 4  # of the training, counted from 0


def _in_a_step(rank: int, monkeypatch: Any, spoil: Any) -> None:
    from xent.recipes import language_model

    original, steps = language_model.parallel_loss, iter(range(10_000))

    def spoiled(*arguments: Any) -> Any:
        if next(steps) == _STEP and rank == 1:
            spoil()
        return original(*arguments)

    monkeypatch.setattr(language_model, "parallel_loss", spoiled)


def raising(rank: int, monkeypatch: Any) -> None:
    """Rank 1 raises an error of xent's."""

    def spoil() -> None:
        raise DataError("the page is torn", "pages are whole", "glue it")

    _in_a_step(rank, monkeypatch, spoil)


def odd(rank: int, monkeypatch: Any) -> None:
    """Rank 1 raises what nobody foresaw."""

    def spoil() -> None:
        raise MemoryError("no memory for 8 bytes")

    _in_a_step(rank, monkeypatch, spoil)


def slow(rank: int, monkeypatch: Any) -> None:
    """Rank 1 sleeps for 20 seconds, in naps: a machine that is halted meanwhile does not make it come in time."""
    _in_a_step(rank, monkeypatch, lambda: [time.sleep(0.1) for _ in range(200)])


def full(rank: int, monkeypatch: Any) -> None:
    """Rank 1 has no room for its part of the second checkpoint."""
    if rank != 1:
        return
    from torch.distributed.checkpoint.filesystem import FileSystem

    original, files = FileSystem.create_stream, iter(range(10_000))

    def create_stream(self: Any, path: Any, mode: str) -> Any:
        if next(files) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(self, path, mode)

    monkeypatch.setattr(FileSystem, "create_stream", create_stream)


def no_whole_tensors(rank: int, monkeypatch: Any) -> None:
    """Whoever asks for the whole of a sharded tensor gets an error."""
    from torch.distributed.tensor import DTensor

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("the whole of a tensor was asked for")

    monkeypatch.setattr(DTensor, "full_tensor", refuse)
    monkeypatch.setattr(DTensor, "redistribute", refuse)


@dataclass(frozen=True)
class Stop:
    """The process of `rank` ends at once at the n-th call of the second epoch that keeps or renames a file."""

    rank: int
    call: int

    def __call__(self, rank: int, monkeypatch: Any) -> None:
        if rank != self.rank:
            return
        from xent.recipes import language_model

        calls, epochs, original = iter(range(10_000)), [], language_model.finish_epoch

        def finish_epoch(*arguments: Any) -> Any:
            epochs.append(1)
            return original(*arguments)

        def guarded(function: Any) -> Any:
            def stopping(*arguments: Any, **options: Any) -> Any:
                if len(epochs) == 2 and next(calls) == self.call:
                    os._exit(9)
                return function(*arguments, **options)

            return stopping

        monkeypatch.setattr(language_model, "finish_epoch", finish_epoch)
        monkeypatch.setattr(os, "fsync", guarded(os.fsync))
        monkeypatch.setattr(Path, "replace", guarded(Path.replace))


def first_full(rank: int, monkeypatch: Any) -> None:
    """Rank 0 has no room for the second line of metrics.jsonl."""
    if rank != 0:
        return
    from xent.recipes._run_directory import METRICS, RunDirectory

    original, lines = RunDirectory.append_metrics, iter(range(10_000))

    def append_metrics(self: Any, record: Any) -> int:
        if next(lines) == 1:
            with self._saying_how_to_resume(METRICS):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, record)

    monkeypatch.setattr(RunDirectory, "append_metrics", append_metrics)


def late(rank: int, monkeypatch: Any) -> None:
    """Rank 1 comes three seconds after rank 0."""
    if rank == 1:
        time.sleep(3)


def first_late(rank: int, monkeypatch: Any) -> None:
    """Rank 0 comes three seconds after rank 1."""
    if rank == 0:
        time.sleep(3)
