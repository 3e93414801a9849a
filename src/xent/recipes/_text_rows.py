"""The rows to train and to validate on: encoded texts, split, with the vocabulary of a model; batches of them.

B rows, T tokens, U distinct words
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xent.errors import DataError, RunError
from xent.recipes._docstrings import Docstrings
from xent.recipes._encoded_texts import EncodedTexts, Encoding, Reading, encoded_texts
from xent.recipes._run_directory import RunDirectory
from xent.recipes._spacy_words import SpacyWords
from xent.recipes._text_tables import TextTable
from xent.recipes._words import PatternWords, read_stop_words
from xent.recipes.text_config import DEFAULT_MIN_COUNT, TextConfig

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2  # numbers in a model's vocabulary
_ROWS_AT_ONCE = 1 << 14  # while counting
_POOL = 32  # batches among which rows of like length are put together


@dataclass(frozen=True)
class Batch:
    """Padded rows: words (B, T), lengths (B,), labels (B,)."""

    words: Tensor
    lengths: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TextRows:
    """Texts of both parts as numbers in the model's vocabulary.

    Attributes:
        texts: all of them.
        train: numbers of the rows that train, (N,).
        validation: numbers of the rows that validate.
        vocabulary: (U,) the model's number of each distinct word, `UNKNOWN` for those it does not know.
        source: where they came from.
        sha256: of the data.
    """

    texts: EncodedTexts
    train: Tensor
    validation: Tensor
    vocabulary: Tensor
    source: str
    sha256: str

    @property
    def num_words(self) -> int:
        """Words that the model knows, padding and unknown included."""
        return int(self.vocabulary.max()) + 1 if len(self.vocabulary) else FIRST_WORD

    def known_words(self) -> list[str]:
        """The words that the model knows, from number `FIRST_WORD` on."""
        numbers = self.vocabulary.tolist()  # which rise with the words
        return [word for word, number in zip(self.texts.words, numbers, strict=True) if number > UNKNOWN]

    def lengths(self, rows: Tensor) -> Tensor:
        """Tokens of rows, (B,)."""
        return self.texts.ends[rows] - self._begins(rows)

    def labels(self, rows: Tensor) -> Tensor:
        """Classes of rows, (B,)."""
        return self.texts.labels[rows].long()

    def words(self, rows: Tensor) -> Tensor:
        """The distinct words' numbers of rows, one text after another, (ΣT,)."""
        lengths_B = self.lengths(rows)
        shifts_B = self._begins(rows) - lengths_B.cumsum(0) + lengths_B
        places = torch.arange(int(lengths_B.sum())) + shifts_B.repeat_interleave(lengths_B)
        return self.texts.tokens[places].long()

    def batch(self, rows: Tensor) -> Batch:
        """Rows as the model takes them."""
        texts = self.vocabulary[self.words(rows)].split(self.lengths(rows).tolist())
        words_BT = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=PADDING)
        if not words_BT.shape[1]:  # all are empty, and an LSTM takes no step of nothing
            words_BT = torch.full((len(rows), 1), PADDING)
        return Batch(words_BT, self.lengths(rows), self.labels(rows))

    def text(self, row: int, most_characters: int) -> str:
        """The words of a row, which are all that is kept of its text, with a space between them."""
        words = " ".join(self.texts.words[word] for word in self.words(torch.tensor([row])).tolist())
        text = "".join(character if character.isprintable() else "\ufffd" for character in words)
        return text if len(text) <= most_characters else text[: most_characters - 1] + "…"

    def unknown(self) -> tuple[int, int]:
        """Tokens that the model does not know, and texts that hold none that it knows, though they are not empty."""
        num_tokens = num_texts = 0
        for rows in torch.arange(len(self.texts.ends)).split(_ROWS_AT_ONCE):
            begin = int(self._begins(rows)[0])
            known = (self.vocabulary[self.words(rows)] != UNKNOWN).long()
            before = torch.cat([torch.zeros(1, dtype=torch.long), known.cumsum(0)])
            known_B = before[self.texts.ends[rows] - begin] - before[self._begins(rows) - begin]
            num_tokens += len(known) - int(known.sum())
            num_texts += int(((known_B == 0) & (self.lengths(rows) > 0)).sum())
        return num_tokens, num_texts

    def to_dict(self) -> dict[str, Any]:
        """What config.json says about the data."""
        tokens, texts = self.unknown()
        counts = self.texts.counts
        return {
            "source": self.source,
            "sha256": self.sha256,
            "texts_sha256": self.texts.sha256,
            "train_rows": len(self.train),
            "validation_rows": len(self.validation),
            "classes": self.texts.label_names,
            "vocabulary": self.num_words,
            "tokens": counts.tokens,
            "unknown_tokens": tokens,
            "empty_texts": counts.empty,
            "unknown_texts": texts,
            "cut_texts": counts.cut,
            "stop_words": counts.stop_words,
            "skipped": counts.skipped,
        }

    def _begins(self, rows: Tensor) -> Tensor:
        return torch.where(rows > 0, self.texts.ends[(rows - 1).clamp(min=0)], 0)


def load_text_rows(config: TextConfig, run: RunDirectory | None, reading: Reading) -> TextRows:
    """Read the texts, or find them in the cache; split them; give each word its number.

    Raises:
        OptionError, DataError, DependencyError: see `encoded_texts`, `read_stop_words` and `SpacyWords`.
        RunError: the data, or its words, are not what `run` began with.
    """
    rows = (
        Docstrings()
        if config.data is None
        else TextTable(Path(config.data), config.text_column, config.label_column, config.skip_bad)
    )
    with reading.around():
        sha256 = rows.sha256
    if run:
        run.check_data(rows.name, sha256)
    encoding = Encoding(
        sha256=sha256,
        words=PatternWords() if config.vectors is None else SpacyWords(str(config.vectors)),
        stop_words=read_stop_words(Path(config.stop_words)) if config.stop_words else [],
        max_tokens=config.max_tokens,
        columns=(config.text_column, config.label_column, config.skip_bad),
    )
    texts = encoded_texts(rows, encoding, reading)
    if run and texts.sha256 != run.config["data"].get("texts_sha256"):
        raise RunError(
            f"the words of {rows.name}, or their vectors, are not those that {run.path} began with",
            "the pipeline and the stop words must be the same",
            "restore them, or start a new run",
        )
    train, validation = _split(len(texts.ends), config, rows.name)
    whole = TextRows(texts, train, validation, torch.empty(0), rows.name, sha256)
    return replace(whole, vocabulary=_vocabulary(whole, config.to_dict()["min_count"]))


def epoch_order(data: TextRows, config: TextConfig, epoch: int) -> Sequence[Tensor]:
    """The rows of every step of an epoch: a function of the seed and the epoch alone.

    Rows are shuffled, then put together by length among the rows of a few batches, so that little is padding.
    """
    generator = epoch_generator(config.seed, epoch)
    shuffled = data.train[torch.randperm(len(data.train), generator=generator)]
    batches: list[Tensor] = []
    for pool in shuffled.split(_POOL * config.batch_size):
        by_length = pool[data.lengths(pool).argsort(stable=True)]
        batches += by_length.split(config.batch_size)
    return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator for an epoch of a run."""
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _split(num_rows: int, config: TextConfig, name: str) -> tuple[Tensor, Tensor]:
    num_validation = round(num_rows * config.validation_share)
    if not 0 < num_validation < num_rows:
        raise DataError(
            f"{name} has {num_rows:,} rows, {num_validation:,} of them to validate on",
            "there must be some to train and some to validate on",
            "pass more rows, or another --validation-share",
        )
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(config.seed))
    return order[num_validation:].sort().values, order[:num_validation].sort().values


def _vocabulary(data: TextRows, min_count: int | None) -> Tensor:
    texts = data.texts
    if texts.has_vector is not None:
        numbers = FIRST_WORD - 1 + texts.has_vector.long().cumsum(0)
        return torch.where(texts.has_vector, numbers, UNKNOWN)
    counts = torch.zeros(len(texts.words), dtype=torch.long)
    for rows in data.train.split(_ROWS_AT_ONCE):
        words = data.words(rows)
        counts.scatter_add_(0, words, torch.ones_like(words))
    known = counts >= (min_count or DEFAULT_MIN_COUNT)
    numbers = FIRST_WORD - 1 + known.long().cumsum(0)
    return torch.where(known, numbers, UNKNOWN)
