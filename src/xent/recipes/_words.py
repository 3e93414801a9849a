"""The words of a text, and those that are left out of it; loads neither torch nor spaCy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from xent.errors import DataError, OptionError

Item = tuple[str, Any]  # a text, and what goes with it
_WORD = re.compile(r"\w+|[^\w\s]")


class Words(Protocol):
    """Cuts texts into words."""

    @property
    def identity(self) -> str:
        """What decides the words and vectors, for a cache to compare."""
        ...

    def pipe(self, items: Iterable[Item], processes: int) -> Iterator[tuple[list[str], Any]]:
        """The words of each text, in order, with what goes with it."""
        ...


class PatternWords:
    """Runs of letters and digits, and every other character alone, in folded case."""

    identity = f"pattern {_WORD.pattern}"

    def pipe(self, items: Iterable[Item], processes: int = 1) -> Iterator[tuple[list[str], Any]]:
        """The words of each text, in order; in this process, whatever `processes` says: it is as fast as reading."""
        return ((_WORD.findall(text.casefold()), what) for text, what in items)


class StopWords:
    """Words that are left out of texts, compared without regard to case, as the texts' own tokenizer cuts them.

    A stop word that the tokenizer cuts into several tokens is left out where all of them follow each other.
    """

    def __init__(self, phrases: list[str], words: Words) -> None:
        cut = words.pipe(((phrase, None) for phrase in phrases), 1)
        self._phrases = {tuple(word.casefold() for word in tokens) for tokens, _ in cut if tokens}
        self._longest = max(map(len, self._phrases), default=0)

    def left_in(self, tokens: list[str]) -> list[str]:
        """The tokens that are part of no stop word.

        Example:
            >>> StopWords(["ang", "hindi-na"], PatternWords()).left_in(["Ang", "bahay", "hindi", "-", "na", "ito"])
            ['bahay', 'ito']
        """
        folded = [token.casefold() for token in tokens]
        kept, place = [], 0
        while place < len(tokens):
            length = self._length_at(folded, place)
            if not length:
                kept.append(tokens[place])
            place += length or 1
        return kept

    def _length_at(self, folded: list[str], place: int) -> int:
        lengths = range(min(self._longest, len(folded) - place), 0, -1)
        return next((n for n in lengths if tuple(folded[place : place + n]) in self._phrases), 0)


def read_stop_words(path: Path) -> list[str]:
    """The lines of a file of stop words that are not empty.

    Raises:
        OptionError: there is no such file.
        DataError: it is no UTF-8 text, or holds no word.
    """
    if not path.is_file():
        raise OptionError(f"stop_words is {path}, which is no file", "it must hold a word a line", "pass another path")
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8 text (byte {error.start})", "it must hold a word a line", "convert it"
        ) from error
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", "it holds the stop words", "allow it") from error
    words = [word for line in lines if (word := line.strip())]
    if not words:
        raise DataError(f"{path} holds no word", "it must hold a word a line", "leave --stop-words out")
    return words
