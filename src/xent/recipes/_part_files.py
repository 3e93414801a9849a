"""The files of a checkpoint that many ranks wrote, read by one process: whole tensors, one at a time.

Each is a safetensors file in which torch.distributed.checkpoint noted where its blocks lie in the whole tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xent.errors import RunError
from xent.recipes._checkpoint import Checkpoint, Parts

_OFFSETS = "DCP_SHARDING_INFO"  # torch's name of the note
_SUFFIX = ".safetensors"


class PartFiles:
    """The tensors in the files of a directory; a context manager that holds the files open."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._blocks: dict[str, list[tuple[Any, list[int]]]] = {}
        self._open = ExitStack()

    def __enter__(self) -> PartFiles:
        for path in sorted(self.place.glob(f"*{_SUFFIX}")):
            file: Any = self._open.enter_context(safe_open(path, framework="pt"))
            for name, found in json.loads(file.metadata()[_OFFSETS]).items():
                self._blocks.setdefault(name, []).append((file, found["saved_offsets"]))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def names(self) -> list[str]:
        """The tensors that there are."""
        return sorted(self._blocks)

    def shape(self, name: str) -> list[int]:
        """The shape of a whole tensor."""
        ends = [
            [offset + size for offset, size in zip(offsets, file.get_slice(name).get_shape(), strict=True)]
            for file, offsets in self._blocks[name]
        ]
        return [max(sizes) for sizes in zip(*ends, strict=True)]

    def dtype(self, name: str) -> str:
        """Its dtype, as safetensors writes it."""
        return self._blocks[name][0][0].get_slice(name).get_dtype()

    def tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        whole: Tensor | None = None
        for file, offsets in self._blocks[name]:
            block = file.get_tensor(name)
            if whole is None:
                whole = torch.empty(self.shape(name), dtype=block.dtype)
            place = tuple(slice(offset, offset + size) for offset, size in zip(offsets, block.shape, strict=True))
            whole[place] = block
        if whole is None:
            raise KeyError(name)
        return whole


def whole_tensors(run: Path, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint, wherever they are.

    Raises:
        RunError: a file of it is missing or damaged.
    """
    if checkpoint.parts is None:
        return checkpoint.tensors
    place = run / checkpoint.parts.directory
    try:
        check_hashes(place, checkpoint.parts, sorted(checkpoint.parts.files))
        with PartFiles(place) as files:
            return {name: files.tensor(name) for name in files.names()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise damaged(place, str(error)) from error


def check_hashes(place: Path, parts: Parts, names: list[str]) -> None:
    """Check that the directory holds the files that were written, and that those of `names` are as they were.

    Raises:
        ValueError: it does not, or they are not.
        OSError: one can't be read.
    """
    found = {path.name for path in place.glob(f"*{_SUFFIX}")}
    if found != parts.files.keys():
        missing = ", ".join(sorted(parts.files.keys() - found)) or "nothing"
        more = ", ".join(sorted(found - parts.files.keys())) or "nothing"
        raise ValueError(f"{missing} is missing, {more} is too much")
    for name in names:
        if sha256_of(place / name) != parts.files[name]:
            raise ValueError(f"the checksum of {name} does not match its content")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(place: Path, why: str) -> RunError:
    """The error of parts that are not as they were written."""
    return RunError(
        f"{place} is damaged ({why})",
        "a checkpoint must be whole",
        f"restore it; or, to go on from the checkpoint before it, mv {place.parent}/checkpoint.previous "
        f"{place.parent}/checkpoint",
    )


def merged(place: Path, prefix: str) -> Iterator[bytes]:
    """One safetensors file of the tensors whose names begin with `prefix`, in pieces: one tensor is held at a time."""
    with PartFiles(place) as files:
        chosen = [name for name in files.names() if name.startswith(prefix)]
        header, end = {}, 0
        for name in chosen:
            shape, dtype = files.shape(name), files.dtype(name)
            begin, end = end, end + torch.Size(shape).numel() * _SIZES[dtype]
            header[name.removeprefix(prefix)] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # safetensors aligns the data
        yield len(text).to_bytes(8, "little") + text
        for name in chosen:
            yield files.tensor(name).reshape(-1).view(torch.uint8).numpy().tobytes()


_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
