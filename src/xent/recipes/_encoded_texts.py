"""Texts as word numbers on disk, made once and kept in a cache: the texts themselves are never held.

    tokens.bin     int32, the words of all texts one after another, as numbers in the order of their first appearance
    ends.bin       int64 (N,), where each text ends
    labels.bin     int32 (N,)
    vectors.safetensors   of a pipeline's words, each once: vectors (U, D), has_vector (U,)
    texts.json     the distinct words, the labels, what was counted, the hash of all that

A directory of the cache appears whole, by one rename. What grows with the data in memory is the list of distinct words
and 12 bytes a row; the words of texts are mapped from the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from xent.errors import DataError
from xent.recipes._spacy_words import SpacyWords
from xent.recipes._text_tables import TextRow
from xent.recipes._words import StopWords, Words

_FORMAT = "texts 2"
_MOST_CLASSES = 10_000
TEXTS, TOKENS, ENDS, LABELS, VECTORS = "texts.json", "tokens.bin", "ends.bin", "labels.bin", "vectors.safetensors"


class Rows(Protocol):
    """Where texts with labels come from."""

    @property
    def name(self) -> str:
        """What it is, in words."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of its content."""
        ...

    @property
    def share_read(self) -> float:
        """How far a reading is."""
        ...

    skipped: Counter[str]
    first_faults: list[str]

    def rows(self) -> Iterator[TextRow]:
        """Every row."""
        ...


@dataclass(frozen=True)
class Reading:
    """How texts are read; it decides nothing about them.

    Attributes:
        processes: that run the pipeline's tokenizer.
        show: called with the rows so far and the share of the data that they are.
        around: entered while texts are read, such as to let Ctrl-C through.
    """

    processes: int = 1
    show: Callable[[int, float], None] = lambda rows, share: None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Encoding:
    """What decides the word numbers."""

    sha256: str  # of the rows
    words: Words
    stop_words: list[str]
    max_tokens: int
    columns: tuple[str, str, bool]  # names, and whether bad rows are skipped

    @cached_property
    def key(self) -> str:
        """The name of the encoded texts in the cache."""
        deciding = [_FORMAT, self.sha256, self.words.identity, self.stop_words, self.max_tokens, self.columns]
        return hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:32]


@dataclass
class Counts:
    """What was met while the texts were read."""

    rows: int = 0
    tokens: int = 0
    empty: int = 0
    cut: int = 0
    stop_words: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first_faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EncodedTexts:
    """Texts as word numbers.

    Attributes:
        tokens: (M,) int32, mapped from the disk.
        ends: (N,) int64, where each text ends in `tokens`.
        labels: (N,) int32, into `label_names`.
        words: every distinct word, by number.
        label_names: the labels, sorted.
        counts: what was met.
        sha256: of all that a model sees of them.
        vectors: (U, D), or None.
        has_vector: (U,), or None.
    """

    tokens: Tensor
    ends: Tensor
    labels: Tensor
    words: list[str]
    label_names: list[str]
    counts: Counts
    sha256: str
    vectors: Tensor | None = None
    has_vector: Tensor | None = None


def cache_directory() -> Path:
    """Where encoded texts are kept: $XENT_CACHE, or xent in the user's cache directory."""
    if named := os.environ.get("XENT_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "xent")


def encoded_texts(rows: Rows, encoding: Encoding, reading: Reading) -> EncodedTexts:
    """The rows' texts as word numbers: of the cache, or made now and put there.

    Raises:
        DataError, OptionError, DependencyError: what reading rows, words or vectors raises; there are too few labels,
            or too many; the cache can't be written. Nothing is left behind then.
    """
    place = cache_directory() / "texts" / encoding.key
    if not (place / TEXTS).exists():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with reading.around():
                _make(place, rows, encoding, reading)
        except OSError as error:
            raise DataError(
                f"{place.parent} can't be written ({error.strerror or error})",
                "the words of the texts are kept there",
                "make room, or set XENT_CACHE to another directory",
            ) from error
    return _read(place)


def _make(place: Path, rows: Rows, encoding: Encoding, reading: Reading) -> None:
    staging = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    staging.mkdir()
    try:
        _Writer(staging, encoding).write(rows, reading)
        try:
            staging.rename(place)
        except OSError:
            if not (place / TEXTS).exists():  # otherwise another process was here first, with the same
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Writer:
    def __init__(self, place: Path, encoding: Encoding) -> None:
        self.place, self.encoding = place, encoding
        self.number_of: dict[str, int] = {}
        self.label_of: dict[str, int] = {}
        self.ends, self.labels = array("q"), array("i")
        self.counts = Counts()

    def write(self, rows: Rows, reading: Reading) -> None:
        stop_words = StopWords(self.encoding.stop_words, self.encoding.words)
        items = ((row.text, row.label) for row in rows.rows())
        with (self.place / TOKENS).open("wb") as file:
            for words, label in self.encoding.words.pipe(items, reading.processes):
                kept = stop_words.left_in(words)
                self.counts.stop_words += len(words) - len(kept)
                self._add(kept, label).tofile(file)
                if self.counts.rows % 64 == 0:
                    reading.show(self.counts.rows, rows.share_read)
        reading.show(self.counts.rows, 1.0)
        self.counts.skipped, self.counts.first_faults = dict(rows.skipped), list(rows.first_faults)
        self._check_labels(rows)
        self._finish()

    def _add(self, words: list[str], label: str) -> array[int]:
        counts, cut = self.counts, words[: self.encoding.max_tokens]
        counts.rows += 1
        counts.tokens += len(cut)
        counts.empty += not cut
        counts.cut += len(cut) < len(words)
        self.ends.append(counts.tokens)
        self.labels.append(self.label_of.setdefault(label, len(self.label_of)))
        return array("i", [self.number_of.setdefault(word, len(self.number_of)) for word in cut])

    def _check_labels(self, rows: Rows) -> None:
        names, num_rows = sorted(self.label_of), self.counts.rows
        if len(names) == 1:
            raise DataError(
                f"{rows.name} has only one class: all {num_rows:,} rows are {names[0]!r}",
                "there must be two or more to tell apart",
                "pass another --label-column, or more rows",
            )
        if len(names) > _MOST_CLASSES or len(names) == num_rows > 2:
            raise DataError(
                f"{rows.name} has {len(names):,} classes in {num_rows:,} rows",
                "a class has several rows, and there are 10,000 classes at most",
                "pass the column of the classes as --label-column",
            )

    def _finish(self) -> None:
        names = sorted(self.label_of)
        order = {self.label_of[name]: place for place, name in enumerate(names)}
        self.labels = array("i", [order[label] for label in self.labels])
        for name, numbers in ((ENDS, self.ends), (LABELS, self.labels)):
            with (self.place / name).open("wb") as file:
                numbers.tofile(file)
        words = list(self.number_of)
        if isinstance(self.encoding.words, SpacyWords):
            vectors, has_vector = self.encoding.words.vectors(words)
            safetensors.torch.save_file({"vectors": vectors, "has_vector": has_vector}, self.place / VECTORS)
        digest = hashlib.sha256(json.dumps([words, names]).encode())
        for path in sorted(self.place.iterdir()):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        content = {"words": words, "labels": names, "counts": asdict(self.counts), "sha256": digest.hexdigest()}
        (self.place / TEXTS).write_text(json.dumps(content))


def _read(place: Path) -> EncodedTexts:
    try:
        content = json.loads((place / TEXTS).read_bytes())
        counts = Counts(**content["counts"])
        tensors = safetensors.torch.load_file(place / VECTORS) if (place / VECTORS).exists() else {}
        return EncodedTexts(
            tokens=_mapped(place / TOKENS, counts.tokens, torch.int32),
            ends=_mapped(place / ENDS, counts.rows, torch.int64),
            labels=_mapped(place / LABELS, counts.rows, torch.int32),
            words=content["words"],
            label_names=content["labels"],
            counts=counts,
            sha256=content["sha256"],
            vectors=tensors.get("vectors"),
            has_vector=tensors.get("has_vector"),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise DataError(
            f"{place} is damaged ({str(error).splitlines()[0]})", "it must be as it was written", f"rm -r {place}"
        ) from error


def _mapped(path: Path, count: int, dtype: torch.dtype) -> Tensor:
    if path.stat().st_size != count * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {count * dtype.itemsize}")
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype) if count else torch.empty(0, dtype=dtype)
