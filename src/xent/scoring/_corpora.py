"""Texts to score: the rows of a table, the lines of a plain file, or all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xent.errors import DataError, OptionError
from xent.recipes._text_tables import KINDS, TextTable, opened, reading_to_its_end

MOST_FAULTS = 3  # kept in words


class Text(NamedTuple):
    """A text, and the number of its row (of its line; 1 for a whole file)."""

    row: int
    text: str


@dataclass
class Corpus:
    """What is scored; `texts()` reads it from the beginning, in the same order every time.

    Attributes:
        path: a table (.csv, .tsv, .jsonl, .parquet), or a plain file in UTF-8; all but Parquet may be gzipped.
        text_column: of a table.
        by_line: each line of a plain file is a text; otherwise all of it is one.
        skip_bad: leave bad rows out and count them.
        skipped: rows that the last reading left out because they hold no text.
        faults: the first few of them in words.
    """

    path: Path
    text_column: str = "text"
    by_line: bool = False
    skip_bad: bool = False
    skipped: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_table(self) -> bool:
        """Whether its ending says that it is one."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes if suffix.lower() != ".gz"]
        return bool(suffixes) and suffixes[-1] in KINDS

    def identity(self) -> dict[str, object]:
        """What its texts depend on."""
        status = self._status()
        return {
            "corpus": str(self.path.absolute()),
            "size": status.st_size,
            "changed": status.st_mtime_ns,
            "column": self.text_column if self.is_table else None,
            "by_line": self.by_line,
            "skip_bad": self.skip_bad,
        }

    def describe(self) -> str:
        """The file, and how it is read."""
        how = f"column {self.text_column}" if self.is_table else "a text in each line" if self.by_line else "one text"
        return f"{self.path}, {how}"

    def texts(self) -> Iterator[Text]:
        """Every good text.

        Raises:
            OptionError: there is no such file or column.
            DataError: a row is bad and `skip_bad` is not set; the file is empty.
        """
        self.skipped = 0
        self.faults.clear()
        if self.is_table:
            yield from self._of_table()
        else:
            yield from self._of_plain_file()

    def refuse(self, row: int, fault: str, do: str) -> None:
        """Raise for a bad row that is not to be left out."""
        if not self.skip_bad:
            raise DataError(
                f"{self.path}, row {row}: {fault}", "every row is scored", f"{do}, or pass --skip-bad to leave it out"
            )

    def _of_table(self) -> Iterator[Text]:
        table = TextTable(self.path, self.text_column, skip_bad=self.skip_bad)
        for row in table.rows():
            yield Text(row.number, row.text)
        self.skipped, self.faults = sum(table.skipped.values()), table.first_faults[:MOST_FAULTS]

    def _of_plain_file(self) -> Iterator[Text]:
        self._status()
        with opened(self.path) as file, reading_to_its_end(self.path):
            rows = enumerate(file, start=1) if self.by_line else [(1, file.read())]
            for row, content in rows:
                try:
                    text = content.decode("utf-8-sig" if row == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    fault = f"byte {error.start + 1} is no UTF-8"
                    self.refuse(row, fault, "convert it to UTF-8")
                    self.skipped += 1
                    self.faults += [f"row {row}: {fault}"][: MOST_FAULTS - len(self.faults)]
                    continue
                text = text.rstrip("\r\n") if self.by_line else text
                if text:
                    yield Text(row, text)

    def _status(self) -> os.stat_result:
        try:
            status = self.path.stat()
        except OSError as error:
            raise OptionError(
                f"{self.path}: {error.strerror}", "it must be a file of texts", "check the path"
            ) from error
        if not self.path.is_file():
            raise OptionError(f"{self.path} is no file", "it must be a file of texts", "pass a file in it")
        return status


@dataclass
class ValidationText(Corpus):
    """The validation text of a run, whose directory `path` is."""

    text: str = ""

    def identity(self) -> dict[str, object]:
        """The run says which text it has."""
        return {"corpus": str(self.path.absolute())}

    def describe(self) -> str:
        """Whose text it is."""
        return f"the validation text of {self.path}"

    def texts(self) -> Iterator[Text]:
        """The one text."""
        yield Text(1, self.text)
