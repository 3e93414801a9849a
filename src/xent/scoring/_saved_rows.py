"""Rows without a text: logits and targets in files, read a piece at a time, or the validation rows of a digits run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xent.errors import DataError, OptionError, ShapeError
from xent.inspection._tensor_files import one_of, read_tensor

_ENDINGS = (".npy", ".safetensors", ".pt", ".pth")


@dataclass
class SavedRows:
    """Logits (N, V), or (B, T, V) of which the rows are B·T, and a target for each.

    Attributes:
        source: where they are from, in words.
        identity: what they depend on.
        targets: (N,) int64.
        positions: T where the logits had three dimensions, else None.
    """

    source: str
    identity: dict[str, object]
    targets: Tensor
    positions: int | None
    table: Any  # read as table[begin:end]: (N, V), or (B, T, V)

    @property
    def num_classes(self) -> int:
        """V."""
        return int(self.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        return tuple(self.table.get_shape() if hasattr(self.table, "get_shape") else self.table.shape)

    def logits(self, begin: int, end: int) -> Tensor:
        """Logits (end − begin, V) of rows."""
        if self.positions is None:
            return _tensor(self.table[begin:end])
        first, last = begin // self.positions, -(-end // self.positions)
        rows = _tensor(self.table[first:last]).reshape(-1, self.num_classes)
        return rows[begin - first * self.positions : end - first * self.positions]


def saved_rows(logits: str, targets: str, ignore_index: int) -> SavedRows:
    """Logits and targets at two places, PATH or PATH:NAME.

    Raises:
        OptionError: no such file, an unknown ending, or no tensor of that name.
        DataError: a file is damaged, or holds no numbers.
        ShapeError: the two do not fit each other.
    """
    path, name = _split(logits)
    table = _opened(path, name)
    target = _targets(targets)
    rows = SavedRows(f"{logits} and {targets}", _identity(path, targets, ignore_index), target.flatten(), None, table)
    shape = rows.shape
    if len(shape) not in (2, 3) or shape[:-1] != tuple(target.shape):
        raise ShapeError(
            f"logits of shape {shape} and targets of shape {tuple(target.shape)}",
            "logits are (N, V) or (B, T, V), with a target for each row: position t is scored against targets[t]",
            "save them so; shift the targets of a language model first",
        )
    rows.positions = shape[1] if len(shape) == 3 else None
    _check_range(rows, ignore_index)
    return rows


def digits_rows(path: Path) -> SavedRows:
    """The validation rows of a digits run."""
    from xent.recipes._threads import torch_threads
    from xent.recipes.digits_runs import trained

    learner = trained(path)
    with torch_threads(1), torch.no_grad():
        logits = learner.model(learner.data.validation.features)
    status = (path / "model.safetensors").stat()
    identity: dict[str, object] = {"model": str(path.absolute()), "size": status.st_size, "time": status.st_mtime_ns}
    return SavedRows(f"{path}, its validation rows", identity, learner.data.validation.labels.long(), None, logits)


def _split(place: str) -> tuple[Path, str | None]:
    if Path(place).exists() or ":" not in place:
        return Path(place), None
    path, _, name = place.rpartition(":")
    return Path(path), name


def _opened(path: Path, name: str | None) -> Any:
    if path.suffix not in _ENDINGS:
        raise OptionError(f"--logits {path}", f"its ending is one of {', '.join(_ENDINGS)}", "convert it")
    if not path.is_file():
        raise OptionError(f"--logits {path} is no file", "it must hold logits", "check the path")
    try:
        if path.suffix == ".npy":
            return _numbers(np.load(path, mmap_mode="r", allow_pickle=False), path)
        if path.suffix == ".safetensors":
            return _of_safetensors(path, name)
        return _of_torch(path, name)
    except (DataError, OptionError):
        raise
    except Exception as error:  # every library has errors of its own for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} can't be read ({first})", f"it must be a {path.suffix} file", "write it anew"
        ) from error


def _numbers(array: Any, path: Path) -> Any:
    if array.dtype.kind != "f":
        raise DataError(f"{path} holds {array.dtype}", "logits are floating point", "write floats")
    return array


def _of_safetensors(path: Path, name: str | None) -> Any:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    return file.get_slice(one_of(list(file.keys()), name, path))  # pyright: ignore[reportAttributeAccessIssue]


def _of_torch(path: Path, name: str | None) -> Any:
    value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(value, dict):
        value = value[one_of([key for key in value if isinstance(key, str)], name, path)]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise DataError(f"{path} holds {type(value).__name__}", "logits are a floating-point tensor", "save one")
    return value


def _targets(place: str) -> Tensor:
    path, name = _split(place)
    if path.suffix in (".pt", ".pth") and path.is_file():
        value = torch.load(path, map_location="cpu", weights_only=True)
        tensor = value[one_of(list(value), name, path)] if isinstance(value, dict) else value
    else:
        tensor = read_tensor(place, "--targets").tensor
    if tensor.is_floating_point() and not bool((tensor == tensor.round()).all()):
        raise DataError(f"{place} holds fractions", "a target is the index of a class", "write integers")
    return tensor.long()


def _check_range(rows: SavedRows, ignore_index: int) -> None:
    targets = rows.targets
    wrong = ((targets < 0) | (targets >= rows.num_classes)) & (targets != ignore_index)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"row {row}: target {int(targets[row])} of {rows.num_classes} classes",
            f"targets are 0 to {rows.num_classes - 1}, or {ignore_index} for a row that does not count",
            "mend it, or pass --ignore-index",
        )


def _identity(path: Path, targets: str, ignore_index: int) -> dict[str, object]:
    status, other = path.stat(), _split(targets)[0].stat()
    return {
        "logits": [str(path.absolute()), status.st_size, status.st_mtime_ns],
        "targets": [str(Path(targets).absolute()), other.st_size, other.st_mtime_ns],
        "ignore_index": ignore_index,
    }


def _tensor(part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part
    array = np.ascontiguousarray(part)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
