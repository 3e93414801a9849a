r"""A checkpoint: where a run stands, as one file that says whether it is whole.

`xent-checkpoint 1 SHA256\n`, the progress as one line of JSON, then the tensors as safetensors. The hash covers all
that follows it, and nothing in the file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from xent.errors import RunError

_MAGIC = b"xent-checkpoint 1 "


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands after whole epochs.

    Attributes:
        epoch: epochs done.
        metrics_bytes: length of metrics.jsonl that belongs to those epochs.
        fingerprint: hash of everything that decides the next weights (options and data).
        tensors: weights, optimizer state and generator state by name.
    """

    epoch: int
    metrics_bytes: int
    fingerprint: str
    tensors: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """The checkpoint as the bytes of its file."""
        progress = {"epoch": self.epoch, "metrics_bytes": self.metrics_bytes, "fingerprint": self.fingerprint}
        body = json.dumps(progress).encode() + b"\n" + safetensors.torch.save(self.tensors)
        return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that was written by `Checkpoint.to_bytes`.

    Raises:
        ValueError: the bytes are not those that were written.
        OSError: the file can't be read.
    """
    header, _, body = path.read_bytes().partition(b"\n")
    if header != _MAGIC + hashlib.sha256(body).hexdigest().encode():
        raise ValueError(
            "its checksum does not match its content" if header.startswith(_MAGIC) else "its header is gone"
        )
    progress, _, tensors = body.partition(b"\n")
    return Checkpoint(**json.loads(progress), tensors=safetensors.torch.load(tensors))


def write_atomically(path: Path, content: bytes, *, keep_as: Path | None = None) -> None:
    """Write a file so that its name always stands for whole content, old or new, whatever interrupts.

    Args:
        path: the file.
        content: its bytes.
        keep_as: where the content it had so far goes.

    Raises:
        OSError: the content could not be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
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
