"""Texts, and their labels, from a table on disk: CSV, TSV, JSON lines or Parquet, a batch at a time.

Memory is a few blocks of the file, or one row group of a Parquet file, whatever the file's size. Rows are numbered as
an editor or a spreadsheet shows them: in CSV and TSV the header is row 1 and empty lines do not count, in JSON lines a
row is a line, in Parquet the first row is 1.
"""

from __future__ import annotations

import codecs
import csv as csv_module
import gzip
import hashlib
import importlib
import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from xent.errors import DataError, DependencyError, OptionError

KINDS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BLOCK = 1 << 22  # bytes of CSV at a time; a row must be shorter
_ROWS = 1024  # of Parquet at a time
_FIRST_FAULTS = 3  # kept in words
_NAMES = 20  # of columns, in an error


@dataclass(frozen=True)
class TextRow:
    """A row: its number in the file, its text, and its label where one was asked for."""

    number: int
    text: str
    label: str | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: `kind` to count by, `detail` to read."""

    kind: str
    detail: str


_Cells = tuple[int, list[Any] | Fault]  # a row's number, and its cells or what is wrong with it


@dataclass
class TextTable:
    """A table of texts; `rows()` reads it from the beginning.

    Attributes:
        path: .csv, .tsv, .jsonl (.ndjson, .json) or .parquet (.pq); all but the last may be gzipped (.csv.gz).
        text_column: the column of the texts.
        label_column: the column of the labels; None for none.
        skip_bad: count bad rows in `skipped` and go on; otherwise the first one raises.
        skipped: bad rows of the last reading, by kind.
        first_faults: the first few of them in words.
        share_read: how far into the file the last reading is, in [0, 1].
    """

    path: Path
    text_column: str = "text"
    label_column: str | None = None
    skip_bad: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    first_faults: list[str] = field(default_factory=list)
    share_read: float = 0.0

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.kind = _kind(self.path)

    @property
    def name(self) -> str:
        """What it is, in words."""
        return str(self.path)

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        with opened(self.path, raw=True) as file:
            digest = hashlib.file_digest(file, "sha256")  # pyright: ignore[reportArgumentType]
        return digest.hexdigest()

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return [self.text_column, *([self.label_column] if self.label_column is not None else [])]

    def rows(self) -> Iterator[TextRow]:
        """Every good row, in order.

        Raises:
            OptionError: there is no such file, or no such column.
            DataError: a row is bad and `skip_bad` is not set; the file is empty, damaged or without a good row.
            DependencyError: pyarrow is missing (JSON lines do without).
        """
        self.skipped.clear()
        self.first_faults.clear()
        num_good = 0
        for number, cells in self._cells():
            row = self._row(number, cells) if not isinstance(cells, Fault) else cells
            if isinstance(row, Fault):
                self._refuse(number, row)
            else:
                num_good += 1
                yield row
        if not num_good:
            first = f" ({self.first_faults[0]})" if self.first_faults else ""
            raise DataError(
                f"{self.path} has no {'good ' if self.skipped else ''}row{first}", "there must be some", "check it"
            )

    def _cells(self) -> Iterator[_Cells]:
        self.share_read = 0.0
        with opened(self.path) as file, reading_to_its_end(self.path):
            if self.kind == "parquet":
                yield from _parquet_cells(file, self)
                return
            if file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # pyright: ignore[reportAttributeAccessIssue]
                raise DataError(f"{self.path} is UTF-16", "a table is read as UTF-8", "save it as UTF-8")
            yield from (_json_cells if self.kind == "json" else _csv_cells)(file, self)

    def _row(self, number: int, cells: list[Any]) -> TextRow | Fault:
        text = _text(self.text_column, cells[0])
        if isinstance(text, Fault) or self.label_column is None:
            return text if isinstance(text, Fault) else TextRow(number, text)
        label = _label(self.label_column, cells[1])
        return label if isinstance(label, Fault) else TextRow(number, text, label)

    def _refuse(self, number: int, fault: Fault) -> None:
        if not self.skip_bad:
            raise DataError(
                f"{self.path}, row {number}: {fault.detail}",
                "every row needs " + " and ".join(f"its {name}" for name in self.columns),
                "mend it, or pass --skip-bad to leave such rows out and count them",
            )
        self.skipped[fault.kind] += 1
        if len(self.first_faults) < _FIRST_FAULTS:
            self.first_faults.append(f"row {number}: {fault.detail}")


def pyarrow_module(name: str, what: str) -> Any:
    """The module pyarrow.`name`.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module(f"pyarrow.{name}")
    except ImportError as error:
        raise DependencyError(
            "pyarrow is not installed", f"it reads {what}", "pip install 'xent[text]', or pass JSON lines"
        ) from error


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    kind = KINDS.get("".join(suffixes[-2:-1] if gzipped else suffixes[-1:]))
    if kind is None or (gzipped and kind == "parquet"):
        raise OptionError(
            f"{path} has the ending {path.suffix!r}",
            "the ending says how a table is read: .csv, .tsv, .jsonl (each also .gz) or .parquet",
            "rename or convert it",
        )
    return kind


def opened(path: Path, *, raw: bool = False) -> BinaryIO:
    """A file of texts; what ends in .gz is unpacked, unless it is wanted `raw`.

    Raises:
        OptionError: there is no such file.
        DataError: it is empty, or can't be read.
    """
    if not path.is_file():
        lack = "is no file" if path.exists() else "does not exist"
        raise OptionError(f"{path} {lack}", "it must be a table of texts", "pass another path")
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty (0 bytes)", "it must hold rows", "check how it was written")
        file = gzip.GzipFile(path) if path.suffix.lower() == ".gz" and not raw else path.open("rb")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})", "its rows are the data", "allow reading") from error
    return file  # pyright: ignore[reportReturnType]


@contextmanager
def reading_to_its_end(path: Path) -> Iterator[None]:
    """Say in a DataError what ends the reading of a file too early."""
    try:
        yield
    except (OSError, EOFError) as error:  # also what gzip says
        raise DataError(
            f"{path} can't be read to its end ({error})", "it must be whole", "check or replace it"
        ) from error


def _check_columns(there: list[str], table: TextTable) -> None:
    for name in table.columns:
        if there.count(name) != 1:
            option = "--text-column" if name == table.text_column else "--label-column"
            lack = f"has {there.count(name)} columns {name!r}" if name in there else f"has no column {name!r}"
            names = repr(there[:_NAMES]) + (" and more" if len(there) > _NAMES else "")
            do = f"pass one of them as {option}"
            if len(there) == 1 and set(there[0]) & set(";\t|,"):
                do = "separate its cells by commas (.csv) or tabs (.tsv)"
            raise OptionError(f"{table.path} {lack}", f"its columns are {names}", do)


def _csv_cells(file: BinaryIO, table: TextTable) -> Iterator[_Cells]:
    """Rows of PyArrow's streaming reader; as bytes, so that one undecodable cell is one bad row."""
    arrow, csv = pyarrow_module("lib", "CSV"), pyarrow_module("csv", "CSV")
    delimiter = "\t" if table.kind == "tsv" else ","
    _check_columns(_header(file, delimiter), table)
    ragged: dict[int, Fault] = {}

    def remember(row: Any) -> str:
        ragged[row.number] = _ragged(row)
        return "skip"

    try:
        reader = csv.open_csv(
            file,
            # one thread: only then does the reader know the numbers of ragged rows
            read_options=csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=remember),
            convert_options=csv.ConvertOptions(
                include_columns=table.columns, column_types=dict.fromkeys(table.columns, arrow.binary())
            ),
        )
        yield from _numbered(_told(map(_cells_of, reader), file, table), ragged)
    except arrow.ArrowInvalid as error:
        raise _damaged(table, error) from error


def _cells_of(batch: Any) -> list[Any]:
    return list(zip(*batch.to_pydict().values(), strict=True))


def _told(batches: Iterator[list[Any]], file: BinaryIO, table: TextTable) -> Iterator[Any]:
    """The rows of batches; each tells the table how far it is, because a batch may be the whole file."""
    size = table.path.stat().st_size
    for rows in batches:
        before, after = table.share_read, getattr(file, "fileobj", file).tell() / size
        for done, row in enumerate(rows, 1):
            table.share_read = before + (after - before) * done / len(rows)
            yield row


def _numbered(rows: Iterator[Any], ragged: dict[int, Fault]) -> Iterator[_Cells]:
    """Good and ragged rows in one order: a ragged row is known before the good one after it arrives."""
    number = 2
    for cells in rows:
        while number in ragged:
            yield number, ragged.pop(number)
            number += 1
        yield number, list(cells)
        number += 1
    yield from sorted(ragged.items())


def _ragged(row: Any) -> Fault:
    hint = ", and a quote is left open" if row.text.count('"') % 2 else ""
    detail = f"{_counted(row.actual_columns, 'cell')} under {_counted(row.expected_columns, 'column')}{hint}"
    return Fault("not as many cells as columns", detail)


def _header(file: BinaryIO, delimiter: str) -> list[str]:
    """The names in the first row that is not empty; the file is at its beginning again after."""
    read = iter(lambda: file.readline(_BLOCK), b"")
    lines = (line.decode("utf-8-sig", errors="replace") for part in read for line in part.splitlines(keepends=True))
    try:
        names = next((names for names in csv_module.reader(lines, delimiter=delimiter) if names), [])
    except csv_module.Error:  # longer than any header
        names = []
    file.seek(0)
    return names


def _damaged(table: TextTable, error: Exception) -> DataError:
    said = str(error).splitlines()[0]
    if "straddl" in said:
        said = f"a row is longer than {_BLOCK >> 20} MiB, or a quote is left open"
    return DataError(f"{table.path} can't be read ({said})", f"it must be {table.kind}", "mend or convert it")


def _json_cells(file: BinaryIO, table: TextTable) -> Iterator[_Cells]:
    """Rows of JSON lines, one by one: PyArrow refuses a whole block for one bad line, and does not say which."""
    checked = False
    for number, line in enumerate(_told(([line] for line in file), file, table), 1):
        if not line.strip():
            continue
        cells = _json_row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
        if not isinstance(cells, Fault) and not checked:
            _check_columns(list(cells), table)
            checked = True
        yield number, cells if isinstance(cells, Fault) else [cells.get(name) for name in table.columns]


def _json_row(line: bytes) -> dict[str, Any] | Fault:
    if line.lstrip().startswith(b"["):  # so begins a file that is one list of all rows
        return Fault("no JSON object", "it is no JSON object such as {...}, but begins a list")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Fault("no UTF-8", f"byte {error.start} is 0x{line[error.start]:02x}, which is no UTF-8 there")
    except (ValueError, RecursionError) as error:
        return Fault("no JSON", f"it is no JSON ({str(error).partition(' (char')[0]})")
    return row if isinstance(row, dict) else Fault("no JSON object", "it is no JSON object such as {...}")


def _parquet_cells(file: BinaryIO, table: TextTable) -> Iterator[_Cells]:
    arrow, parquet = pyarrow_module("lib", "Parquet"), pyarrow_module("parquet", "Parquet")
    try:
        reader = parquet.ParquetFile(file)
        _check_columns(reader.schema_arrow.names, table)
        batches = reader.iter_batches(batch_size=_ROWS, columns=table.columns, use_threads=False)
        rows = (
            list(zip(*(_values(batch.column(name), arrow) for name in table.columns), strict=True)) for batch in batches
        )
        yield from (
            (number, list(cells))
            for number, cells in enumerate(_counted_rows(rows, reader.metadata.num_rows, table), 1)
        )
    except arrow.ArrowInvalid as error:
        raise _damaged(table, error) from error


def _counted_rows(batches: Iterator[list[Any]], num_rows: int, table: TextTable) -> Iterator[Any]:
    for done, row in enumerate(chain.from_iterable(batches), 1):
        table.share_read = done / num_rows
        yield row


def _values(column: Any, arrow: Any) -> list[Any]:
    """The cells of a column; text as bytes, because a writer need not have checked that it is UTF-8."""
    kind = column.type.value_type if isinstance(column.type, arrow.DictionaryType) else column.type
    if kind in (arrow.string(), arrow.large_string()):
        column = column.cast(kind).cast(arrow.large_binary())
    return column.to_pylist()


def _text(name: str, cell: Any) -> str | Fault:
    if cell is None:
        return Fault(f"no {name}", f"{name} is missing")
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError as error:
            detail = f"byte {error.start} of {name} is 0x{cell[error.start]:02x}, which is no UTF-8 there"
            return Fault("no UTF-8", detail)
    if isinstance(cell, str):
        if any("\ud800" <= character <= "\udfff" for character in cell):  # JSON may hold half a character
            return Fault("no UTF-8", f"{name} holds half of a surrogate pair")
        return cell
    return Fault(f"{name} is no text", f"{name} is {reprlib.repr(cell)}, which is no text")


def _label(name: str, cell: Any) -> str | Fault:
    if isinstance(cell, float):  # also a column of integers with gaps, as pandas keeps it: NaN is a gap
        cell = Fault(f"no {name}", f"{name} is NaN") if math.isnan(cell) else int(cell) if cell.is_integer() else cell
    if isinstance(cell, (Fault, int, float)):
        return cell if isinstance(cell, Fault) else str(cell).lower()
    label = _text(name, cell)
    if isinstance(label, Fault):
        return label
    return label.strip() or Fault(f"no {name}", f"{name} is empty")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
