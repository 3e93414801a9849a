"""Where the records of a run go: a directory of its own, never that of another run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

from xent.errors import RunError

RUNS = Path("runs")
FILE = "records.jsonl"
_OTHERS = "records.rank*.jsonl"
_SECONDS_FOR_RANK_0 = 20
_watches = count(1)


def rank_and_world() -> tuple[int, int]:
    """This process among those that train together; (0, 1) where it is alone."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    with suppress(ValueError):
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return 0, 1


def file_name(rank: int) -> str:
    """The records of a rank."""
    return FILE if rank == 0 else f"records.rank{rank}.jsonl"


def opened(out: str | os.PathLike[str] | None, name: str, rank: int, world_size: int) -> tuple[Path, FileIO]:
    """A new file of records: in `out`, or the first free of out-2, out-3, …; without `out`, of runs/NAME-1, …

    The processes of one run meet in the directory that rank 0 found. One that does not find rank 0 has a directory of
    its own, out-rank1, and never writes into that of another run.

    Raises:
        RunError: it can't be written.
    """
    asked = None if out is None else Path(out)
    meeting = Meeting(world_size)
    if rank and (found := meeting.where_rank_0_is()) is not None:
        return found / file_name(rank), _created(found, file_name(rank), asked or found)
    if rank:
        name, asked = f"{name}-rank{rank}", None if asked is None else asked.with_name(f"{asked.name}-rank{rank}")
    for place in _places(asked, name):
        with suppress(FileExistsError):
            file = _created(place, FILE, place)
            if asked is not None and place != asked:
                print(f"xent watch: {asked} has the records of another run; this one's are in {place}", file=sys.stderr)
            if not rank:
                meeting.tell(place)
            return place / FILE, file
    raise AssertionError  # the places never end


def records_of(out: str | os.PathLike[str] | None, rank: int) -> Path | None:
    """The records that a directory has of a rank; None where it has none."""
    path = None if out is None else Path(out) / file_name(rank)
    return path if path is not None and path.is_file() else None


def cut(path: Path, step: int) -> FileIO:
    """Records to append to: of those that are there, the lines up to a step; its end and broken lines go.

    Raises:
        RunError: they can't be read or written.
    """
    try:
        part = path.with_name(f"{path.name}.part")
        with path.open("rb") as old, part.open("wb") as new:
            new.writelines(line for line in old if _stays(line, step))
        part.replace(path)
        return FileIO(path, "ab")
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def cut_further_ranks(directory: Path, world_size: int, step: int) -> None:
    """Records of ranks that a run no longer has end where it goes on: their later steps are taken again.

    Raises:
        RunError: they can't be read or written.
    """
    known = {file_name(rank) for rank in range(world_size)}
    for path in directory.glob(_OTHERS):
        if path.name not in known:
            cut(path, step).close()


def _stays(line: bytes, step: int) -> bool:
    try:
        record = json.loads(line)
        return line.endswith(b"\n") and record["kind"] != "end" and record.get("step", 0) <= step
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _places(out: Path | None, name: str) -> Iterator[Path]:
    if out is None:
        yield from (RUNS / f"{name}-{number}" for number in count(1))
        return
    yield out
    yield from (out.with_name(f"{out.name}-{number}") for number in count(2))


def _created(place: Path, name: str, asked: Path) -> FileIO:
    try:
        place.mkdir(parents=True, exist_ok=True)
        if name == FILE and any(place.glob(_OTHERS)):
            raise FileExistsError
        return FileIO(place / name, "xb")
    except FileExistsError:
        if place.is_dir():
            raise
        raise _refused(asked, "it is no directory") from None
    except OSError as error:
        raise _refused(asked, error.strerror or str(error)) from error


def _refused(place: Path, why: str) -> RunError:
    return RunError(f"{place} can't be written ({why})", "a run needs a directory for its records", "pass another out")


class Meeting:
    """How the processes of a run agree on a directory, without waiting for those that do not watch."""

    def __init__(self, world_size: int) -> None:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key, self._store = f"xent.watch.{attempt}.{next(_watches)}", None
        if world_size > 1:
            self._store = _store_of_group() or _store_of_torchrun()

    def tell(self, place: Path) -> None:
        """Rank 0 has found the directory."""
        if self._store is not None:
            self._store.set(self._key, str(place.absolute()))

    def where_rank_0_is(self) -> Path | None:
        """Its directory; None where there is no way to ask it, or it does not answer."""
        if self._store is None:
            print(
                "xent watch: there is no process group yet, so this rank looks for a directory by itself",
                file=sys.stderr,
            )
            return None
        try:
            self._store.wait([self._key], timedelta(seconds=_SECONDS_FOR_RANK_0))
            return Path(self._store.get(self._key).decode())
        except Exception:
            print("xent watch: rank 0 is not watched; this rank looks for a directory by itself", file=sys.stderr)
            return None


def _store_of_group() -> Any:
    with suppress(Exception):  # no process group yet, or a torch without this door
        from torch.distributed.distributed_c10d import _get_default_store

        return _get_default_store()
    return None


def _store_of_torchrun() -> Any:
    """The store that torchrun keeps for its processes, there before they make their group; None elsewhere."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    with suppress(Exception):  # it is gone, or out of reach: then each looks for itself, which is said
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=_SECONDS_FOR_RANK_0))
    return None
