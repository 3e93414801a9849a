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

_NO_PART_OF_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


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
    texts: list[str] = []
    left_out: list[Path] = []
    room = max_bytes
    num_read = 0
    for file in files:
        if room is not None and room <= 0:
            break
        text = _read(file, room)
        num_read += 1
        if text is None:
            left_out.append(file.path)
            continue
        texts.append(text)
        room = None if room is None else room - len(text.encode())
    content = "".join(texts)
    if not content:
        raise DataError(f"{name}: no text", "there must be some to learn from", "pass --data with files of UTF-8 text")
    return Corpus(content, _source(name, files, num_read, content, left_out), _sha256(content))


def _library() -> Iterator[_File]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in _folder(root):
        if file.path.suffix == ".py" and not _NO_PART_OF_THE_LIBRARY & set(file.path.relative_to(root).parts):
            yield file


def _found(path: Path) -> Iterator[_File]:
    try:
        is_folder, is_file, exists = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not is_folder and not is_file:
        lack = "is neither a file nor a folder" if exists else "does not exist"
        raise OptionError(f"data is {path}, which {lack}", "it must be text files and folders", "pass another path")
    return _folder(path) if is_folder else iter([_File(path, named=True)])


def _folder(root: Path) -> Iterator[_File]:
    def refuse(error: OSError) -> None:
        raise _unreadable(Path(str(error.filename)), error) from error

    found: list[Path] = []
    for folder, inner, names in os.walk(root, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return (_File(path, named=False) for path in sorted(found) if path.is_file())


def _read(file: _File, room: int | None) -> str | None:
    """The text of a file, at most `room` bytes of it; None for a file that was not named and is no text."""
    try:
        with file.path.open("rb") as opened:
            content = opened.read() if room is None else opened.read(room + 1)
    except OSError as error:
        raise _unreadable(file.path, error) from error
    try:
        text = _whole_characters(content, room).decode()
        if "\0" not in text:
            return text
        fault = f"byte {text.encode().index(0)} is zero"
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


def _source(name: str, files: list[_File], num_read: int, content: str, left_out: list[Path]) -> str:
    size, there = len(content.encode()), sum(file.path.stat().st_size for file in files)
    is_all = num_read == len(files) and (size == there or left_out)
    files_taken = f"{num_read - len(left_out):,} file{'s' if num_read - len(left_out) != 1 else ''}"
    source = f"{name}: {files_taken}, {size:,} bytes"
    if not is_all:
        source = f"{name}: the first {size:,} bytes in {files_taken}, of {there:,} in {len(files):,}"
    if left_out:
        source += f"; left out, being no UTF-8 text: {len(left_out):,}, such as {left_out[0].name}"
    return source


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} can't be read ({error.strerror or error})", "its text is the data", "allow reading, or leave it out"
    )


def _sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
