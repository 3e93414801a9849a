"""Logits and targets from files: JSON, .npy, .safetensors, CSV, Parquet. `FILE:NAME` picks one of several."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xent.errors import DataError, OptionError
from xent.report._optional import needed


class NamedTensor(NamedTuple):
    """A tensor, and the names of its columns where the file has some."""

    tensor: Tensor
    columns: tuple[str, ...] | None = None


def read_tensor(place: str, option: str) -> NamedTensor:
    """The tensor at `place`, a path or PATH:NAME.

    Raises:
        OptionError: no such file, an unknown suffix, or no tensor of that name.
        DataError: the file is damaged, or holds no numbers.
    """
    path, name = _split(place)
    if path.suffix not in _READERS:
        raise OptionError(
            f"{option} is {place}", f"its suffix must be one of {', '.join(_READERS)}", "convert it to such a file"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"{option} is {path}: {error.strerror}", "it must be a file", "mend the path") from error
    try:
        return _READERS[path.suffix](content, path, name)
    except (DataError, OptionError, ImportError):
        raise
    except Exception as error:  # every library has errors of its own for a damaged file
        raise DataError(
            f"{path} can't be read ({error})", f"it must be a {path.suffix} file", "write it anew"
        ) from error


def _split(place: str) -> tuple[Path, str | None]:
    if Path(place).exists() or ":" not in place:
        return Path(place), None
    path, _, name = place.rpartition(":")
    return Path(path), name


def one_of(names: Sequence[str], name: str | None, path: Path) -> str:
    """The name of the tensor to read, of those in a file.

    Raises:
        OptionError: it is not there, or there are several and none was named.
    """
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        got = f"{path} holds {', '.join(names) or 'no tensor'}"
        raise OptionError(got, "one of them is read", f"pass {path}:{names[0] if names else 'NAME'}")
    return name


def _nameless(name: str | None, path: Path) -> None:
    if name is not None:
        raise OptionError(f"{path}:{name}", f"{path} holds one tensor, without a name", f"pass {path}")


def _of_json(content: bytes, path: Path, name: str | None) -> NamedTensor:
    value: Any = json.loads(content)
    if isinstance(value, dict):
        value = value[one_of(list(value), name, path)]
    else:
        _nameless(name, path)
    return NamedTensor(_numbers(value, path))


def _numbers(value: Any, path: Path) -> Tensor:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{path}: its lists are of different lengths", "a tensor has equal ones", "mend it") from error
    return _tensor(array, path)


def _tensor(array: Any, path: Path) -> Tensor:
    if array.dtype.kind not in "iuf":
        held = _HELD.get(array.dtype.kind, array.dtype)
        raise DataError(f"{path} holds {held}", "logits and targets are numbers", "write numbers")
    return torch.from_numpy(np.array(array, dtype=_native(array.dtype), order="C"))


_HELD = {"U": "text", "S": "text", "b": "true and false", "O": "empty cells, text or lists", "V": "records"}


def _native(dtype: Any) -> Any:
    """A dtype that torch has: native byte order, signed 64 bits for other unsigned ones."""
    return np.int64 if dtype.kind == "u" and dtype.itemsize > 1 else dtype.newbyteorder("=")


def _of_npy(content: bytes, path: Path, name: str | None) -> NamedTensor:
    _nameless(name, path)
    return NamedTensor(_tensor(np.load(io.BytesIO(content), allow_pickle=False), path))


def _of_safetensors(content: bytes, path: Path, name: str | None) -> NamedTensor:
    from safetensors.torch import load

    tensors = load(content)
    return NamedTensor(tensors[one_of(sorted(tensors), name, path)])


def _of_csv(content: bytes, path: Path, name: str | None) -> NamedTensor:
    csv: Any = needed("pyarrow.csv", "a CSV file")
    first = content.partition(b"\n")[0].decode("utf-8", "replace").split(",")
    nameless = all(_is_number(cell) for cell in first)
    options = csv.ReadOptions(autogenerate_column_names=nameless)
    table = csv.read_csv(io.BytesIO(content), read_options=options)
    others = [separator for separator in ";\t|" if separator in table.column_names[0]]
    if table.num_columns == 1 and others:
        raise DataError(f"{path} has one column, {table.column_names[0]!r}", "commas separate columns",
                        f"replace each {others[0]!r} by a comma")  # fmt: skip
    found = _of_table(table, path, name)
    return found._replace(columns=None) if nameless else found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_parquet(content: bytes, path: Path, name: str | None) -> NamedTensor:
    parquet: Any = needed("pyarrow.parquet", "a Parquet file")
    return _of_table(parquet.read_table(io.BytesIO(content)), path, name)


def _of_table(table: Any, path: Path, name: str | None) -> NamedTensor:
    """All columns as classes, or the one asked for; a column of lists is a tensor by itself."""
    names = list(table.column_names)
    if "" in names or "__index_level_0__" in names:
        raise DataError(
            f"{path} has a column without a name beside {', '.join(filter(None, names))}",
            "every column is a class; a frame's row numbers are none",
            "write it with index=False",
        )
    if not table.num_rows:
        raise DataError(f"{path} has no rows", "a tensor has some", "write rows below the names")
    if name is not None or len(names) == 1:
        return NamedTensor(_numbers(table.column(one_of(names, name, path)).to_pylist(), path))
    columns = [np.asarray(table.column(column).to_numpy()) for column in names]
    return NamedTensor(_tensor(np.stack(columns, 1) if columns else np.zeros((0, 0)), path), tuple(map(str, names)))


_READERS: dict[str, Callable[[bytes, Path, str | None], NamedTensor]] = {
    ".json": _of_json,
    ".npy": _of_npy,
    ".safetensors": _of_safetensors,
    ".csv": _of_csv,
    ".parquet": _of_parquet,
}
