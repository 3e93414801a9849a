"""The text to train on: files and folders, or the source of Python's standard library; loads no torch."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from xent.errors import DataError, OptionError

_NO_PART_OF_THE_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class Corpus:
    """Text, where it came from in words, and the SHA-256 of its UTF-8 bytes."""

    text: str
    source: str
    sha256: str


@dataclass(frozen=True)
class _File:
    """A file to read; a `named` one was asked for itself and must be text, another was found in a folder."""

    path: Path
    named: bool


def read_corpus(paths: Sequence[str | Path] | None, max_bytes: int | None) -> Corpus:
    """The text of files and of all text files in folders, one after another; at most `max_bytes` of it.

    None is the source of the running Python's standard library without its tests. A folder's files come in the order
    of their paths, at any depth; hidden ones are left out, and those that are no UTF-8 text too, which `source` says.

    Raises:
        OptionError: a path does not exist, or is neither a file nor a folder.
        DataError: a named file is no UTF-8 text, something can't be read, or there is no text.
    """
    name = _name(paths)
    files = list(_library() if paths is None else chain.from_iterable(_found(Path(path)) for path in paths))
    taken = _Taken(max_bytes)
    for file in files:
        if taken.is_full:
            break
        taken.add(file)
    content = "".join(taken.texts)
    if not content:
        raise DataError(f"{name}: no text", "there must be some to learn from", "pass --data with files of UTF-8 text")
    return Corpus(content, _source(name, files, taken), hashlib.sha256(content.encode()).hexdigest())


class _Taken:
    """What was read so far: texts, their bytes in UTF-8, and the files that are no text."""

    def __init__(self, max_bytes: int | None) -> None:
        self.texts: list[str] = []
        self.left_out: list[Path] = []
        self.num_bytes = 0
        self.is_full = False
        self._max_bytes = max_bytes

    def add(self, file: _File) -> None:
        room = None if self._max_bytes is None else self._max_bytes - self.num_bytes
        content = _read(file.path, room)
        text = _text(_whole_characters(content, room), file)
        if text is None:
            self.left_out.append(file.path)
            return
        self.texts.append(text)
        self.num_bytes += len(text.encode())
        self.is_full = room is not None and len(content) >= room


def _library() -> Iterator[_File]:
    root = Path(sysconfig.get_path("stdlib"))
    return (file for file in _folder(root, leave_out=_NO_PART_OF_THE_LIBRARY) if file.path.suffix == ".py")


def _found(path: Path) -> Iterator[_File]:
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not is_folder and not is_file:
        lack = "is neither a file nor a folder" if exists else "does not exist"
        raise OptionError(f"data is {path}, which {lack}", "it must be text files and folders", "pass another path")
    return _folder(path) if is_folder else iter([_File(path, named=True)])


def _folder(root: Path, leave_out: frozenset[str] = frozenset()) -> Iterator[_File]:
    def refuse(error: OSError) -> None:
        raise _unreadable(Path(str(error.filename)), error) from error

    found: list[Path] = []
    for folder, inner, names in os.walk(root, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".") and name not in leave_out]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return (_File(path, named=False) for path in sorted(found) if path.is_file())


def _read(path: Path, room: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read() if room is None else file.read(room + 1)  # one more shows where a character ends
    except OSError as error:
        raise _unreadable(path, error) from error


def _text(content: bytes, file: _File) -> str | None:
    """The text that bytes are; None where they are none and nobody named the file."""
    try:
        text = content.decode()
        if "\0" not in text:
            return text
        fault = f"byte {content.index(0)} is zero"
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} is 0x{content[error.start]:02x}"
    if not file.named:
        return None
    raise DataError(
        f"{file.path} is no UTF-8 text ({fault})", "a language model learns from text", "convert it, or leave it out"
    )


def _whole_characters(content: bytes, room: int | None) -> bytes:
    if room is None or len(content) <= room:
        return content
    while room and content[room] & 0xC0 == 0x80:  # inside a character
        room -= 1
    return content[:room]


def _name(paths: Sequence[str | Path] | None) -> str:
    if paths is None:
        return f"the source of Python {platform.python_version()}'s standard library"
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _source(name: str, files: list[_File], taken: _Taken) -> str:
    num_files = len(taken.texts)
    in_files = f"{num_files:,} file{'s' if num_files != 1 else ''}"
    source = f"{name}: {in_files}, {taken.num_bytes:,} bytes"
    if taken.is_full:
        there = sum(file.path.stat().st_size for file in files)
        source = f"{name}: the first {taken.num_bytes:,} bytes in {in_files}, of {there:,} in {len(files):,}"
    if taken.left_out:
        source += f"; left out, being no UTF-8 text: {len(taken.left_out):,}, such as {taken.left_out[0].name}"
    return source


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} can't be read ({error.strerror or error})", "its text is the data", "allow reading, or leave it out"
    )
