r"""A checkpoint: where a run stands, as one file that says whether it is whole.

`xent-checkpoint 1 SHA256\n`, the progress as one line of JSON, then the tensors as safetensors. The hash covers all
that follows it, and nothing in the file is ever executed.

Of a run that many ranks train the tensors lie beside it, in a directory with one file for each rank; the checkpoint
(`xent-checkpoint 2`) then holds its name and the SHA-256 of every file. It is replaced once all of them are written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from xent.errors import RunError

_MAGIC, _MAGIC_OF_PARTS = b"xent-checkpoint 1 ", b"xent-checkpoint 2 "
_PARTS = "checkpoint.parts-"
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Parts:
    """The files that hold the tensors of a checkpoint.

    Attributes:
        directory: their directory, in that of the run.
        files: SHA-256 of each by its name.

    Raises:
        ValueError: a name leads elsewhere.
    """

    directory: str
    files: dict[str, str]

    def __post_init__(self) -> None:
        for name in (self.directory, *self.files):
            if not _NAME.fullmatch(name) or (name == self.directory) != name.startswith(_PARTS):
                raise ValueError(f"{name!r} is no name of a part")


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands after whole epochs.

    Attributes:
        epoch: epochs done.
        metrics_bytes: length of metrics.jsonl that belongs to those epochs.
        fingerprint: hash of everything that decides the next weights (options and data).
        tensors: weights, optimizer state and generator state by name.
        parts: where they are instead, if many ranks wrote them.
    """

    epoch: int
    metrics_bytes: int
    fingerprint: str
    tensors: dict[str, Tensor]
    parts: Parts | None = None

    def to_bytes(self) -> bytes:
        """The checkpoint as the bytes of its file."""
        progress: dict[str, Any] = {
            "epoch": self.epoch,
            "metrics_bytes": self.metrics_bytes,
            "fingerprint": self.fingerprint,
        }
        if self.parts:
            progress["parts"] = asdict(self.parts)
        body = json.dumps(progress).encode() + b"\n" + safetensors.torch.save(self.tensors)
        magic = _MAGIC_OF_PARTS if self.parts else _MAGIC
        return magic + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was written by `Checkpoint.to_bytes`.

    Raises:
        ValueError: the bytes are not those that were written.
        OSError: the file can't be read.
    """
    header, _, body = path.read_bytes().partition(b"\n")
    magic = header[: len(_MAGIC)]
    if magic not in (_MAGIC, _MAGIC_OF_PARTS):
        raise ValueError("its header is gone")
    if header != magic + hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its checksum does not match its content")
    progress, _, tensors = body.partition(b"\n")
    found = json.loads(progress)
    parts = Parts(**found.pop("parts")) if magic == _MAGIC_OF_PARTS else None
    return Checkpoint(**found, tensors=safetensors.torch.load(tensors), parts=parts)


def new_parts_name(epoch: int) -> str:
    """A name for the directory of the parts of an epoch, which no other attempt at that epoch has."""
    return f"{_PARTS}{epoch}-{os.urandom(4).hex()}"


def remove_unused_parts(run: Path, *checkpoints: Path) -> None:
    """Remove the directories of parts that none of the checkpoints names: of older ones, or of a stop while writing."""
    there = list(run.glob(f"{_PARTS}*"))
    used = {_parts_of(path) for path in checkpoints} if there else set()
    for place in there:
        if place.name not in used:
            shutil.rmtree(place, ignore_errors=True)


def _parts_of(checkpoint: Path) -> str | None:
    if not checkpoint.exists():
        return None
    with checkpoint.open("rb") as file:
        magic, progress = file.readline()[: len(_MAGIC)], file.readline()
    try:
        return json.loads(progress)["parts"]["directory"] if magic == _MAGIC_OF_PARTS else None
    except (ValueError, KeyError, TypeError):  # damaged: nothing can be read from it any more
        return None


def write_atomically(path: Path, content: bytes | Iterable[bytes], *, keep_as: Path | None = None) -> None:
    """Write a file so that its name always stands for whole content, old or new, whatever interrupts.

    Args:
        path: the file.
        content: its bytes, at once or in pieces.
        keep_as: where the content it had so far goes.

    Raises:
        OSError: the content could not be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in (content,) if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if keep_as and path.exists():
            path.replace(keep_as)  # a stop here leaves only keep_as, which `newest_checkpoint` then reads
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_checkpoint(path: Path, previous: Path) -> Checkpoint:
    """The checkpoint at `path`, or the one before it if a stop came between the two renames of a write.

    Raises:
        RunError: there is none, or the newest one is damaged.
    """
    newest = path if path.exists() or not previous.exists() else previous
    try:
        return read_checkpoint(newest)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing", "a run goes on from its checkpoint", "start a new run") from error
    except OSError as error:
        raise RunError(
            f"{newest} can't be read ({error.strerror})", "a run goes on from its checkpoint", "check the file's rights"
        ) from error
    except Exception as error:  # whatever a parser says to damaged bytes
        raise RunError(
            f"{newest} is damaged ({error})", "a checkpoint must be whole", _rescue(newest, previous)
        ) from error


def _rescue(newest: Path, previous: Path) -> str:
    try:
        epoch = read_checkpoint(previous).epoch if newest != previous else None
    except Exception:  # nothing to offer, for whatever reason
        epoch = None
    return "start a new run" if epoch is None else f"to go on from epoch {epoch}, mv {previous} {newest}"
