"""Scores on disk: a part for each shard, whole or not there, and at the end one file of all parts.

OUT.parts/            what a stopped command goes on from
    config.json       what the scores depend on; another command's parts are refused
    00000.parquet     the scores of shard 0 (or .jsonl)
    00000.json        its totals, written after them: a shard is done when this is there
OUT                   written whole from the parts, which then go
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xent.errors import DataError, DependencyError, OptionError
from xent.report._files import write_whole
from xent.scoring._totals import Totals

Columns = dict[str, list[Any]]
COLUMNS = ("row", "position", "id", "token", "nats", "bits", "rank", "entropy")
_TYPES = ("int64", "int64", "int64", "string", "float64", "float64", "int64", "float64")
ENDINGS = (".parquet", ".jsonl")


class ScoreFiles:
    """Where the scores of one command go."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        self.out, self.parts = out, out.with_name(f"{out.name}.parts")
        check_out(out)
        self._suffix = out.suffix
        if self._suffix == ".parquet":
            _arrow()  # before any work
        self._config = self.parts / "config.json"
        self._identity: dict[str, Any] = json.loads(json.dumps(identity))
        self._has_begun = False
        with _written(self.parts):
            self._check_parts()

    def _check_parts(self) -> None:
        """Raise for parts of another command; those of this one without --skip-bad hold no bad row, and are its own."""
        if not self._config.is_file():
            return
        try:
            before = json.loads(self._config.read_text("utf-8"))
        except ValueError:
            before = {}
        if before not in (self._identity, _strict(self._identity)):
            names = {*before, *self._identity}
            changed = sorted(name for name in names if before.get(name) != self._identity.get(name)) or ["config.json"]
            raise OptionError(
                f"{self.parts} was begun with another {', '.join(changed)}",
                "parts of one file come from one model, corpus and reading",
                f"pass what it was begun with, another --out, or remove {self.parts}",
            )

    def _begin(self) -> None:
        """Before the first part only, so that a command that fails earlier leaves nothing."""
        self.parts.mkdir(exist_ok=True)
        write_whole(self._config, json.dumps(self._identity, indent=2) + "\n")

    def done(self, shard: int) -> Totals | None:
        """The totals of a shard that is done."""
        path = self._path(shard, ".json")
        try:
            return Totals(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is damaged", "it holds the totals of a part", f"remove {path}") from error

    def read(self, shard: int) -> Columns:
        """The scores of a shard that is done."""
        path = self._path(shard, self._suffix)
        if self._suffix == ".parquet":
            return _arrow().read_table(path).to_pydict()
        rows = [
            json.loads(line) for line in path.read_bytes().splitlines()
        ]  # of bytes: text has line ends in tokens too
        return {name: [row[name] for row in rows] for name in COLUMNS}

    def write(self, shard: int, columns: Columns, totals: Totals) -> None:
        """Keep the scores of a shard."""
        path = self._path(shard, self._suffix)
        with _written(path):
            if not self._has_begun:
                self._begin()
                self._has_begun = True
            temporary = path.with_name(f".{path.name}")
            if self._suffix == ".parquet":
                _arrow().write_table(_table(columns), temporary)
            else:
                temporary.write_text("".join(_lines(columns)), "utf-8")
            temporary.replace(path)
            write_whole(self._path(shard, ".json"), json.dumps(asdict(totals)) + "\n")

    def join(self, num_shards: int) -> None:
        """Write the one file, and let the parts go."""
        temporary = self.out.with_name(f".{self.out.name}.whole")
        with _written(self.out):
            try:
                if self._suffix == ".parquet":
                    with _arrow().ParquetWriter(temporary, _schema()) as writer:
                        for shard in range(num_shards):
                            writer.write_table(_arrow().read_table(self._path(shard, self._suffix)))
                else:
                    with temporary.open("wb") as whole:
                        for shard in range(num_shards):
                            whole.write(self._path(shard, self._suffix).read_bytes())
                temporary.replace(self.out)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        if self.parts.is_dir():  # where there was no shard there are no parts
            shutil.rmtree(self.parts)

    def _path(self, shard: int, suffix: str) -> Path:
        return self.parts / f"{shard:05}{suffix}"


def _strict(identity: dict[str, Any]) -> dict[str, Any]:
    """The identity of the same command without --skip-bad."""
    return {
        name: False if name == "skip_bad" else _strict(value) if isinstance(value, dict) else value
        for name, value in identity.items()
    }


def check_out(out: Path) -> None:
    """Raise OptionError where no scores can go."""
    if out.suffix not in ENDINGS:
        raise OptionError(f"--out {out}", "its ending is .parquet or .jsonl", f"pass such as {out.stem}.parquet")
    if not out.parent.is_dir():
        raise OptionError(f"--out {out}: {out.parent} is no folder", "a file is written there", "make it first")
    if out.exists():
        raise OptionError(f"--out {out} is there already", "scores are never overwritten", "remove it, or pass another")


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "pyarrow is not installed", "it writes Parquet", "pip install 'xent[text]', or pass --out NAME.jsonl"
        ) from error
    return pyarrow.parquet


def _schema() -> Any:
    import pyarrow

    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in zip(COLUMNS, _TYPES, strict=True)])


def _table(columns: Columns) -> Any:
    import pyarrow

    return pyarrow.table({name: columns[name] for name in COLUMNS}, schema=_schema())


def _lines(columns: Columns) -> Iterator[str]:
    for row in zip(*(columns[name] for name in COLUMNS), strict=True):
        yield json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} can't be written ({error.strerror or error})", "scores are kept there", "check rights and room"
        ) from error
