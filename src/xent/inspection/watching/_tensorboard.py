"""The scalars of the records for TensorBoard, by torch's own writer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from xent.errors import DependencyError

FOLDER = "tensorboard"


class TensorBoard:
    """Is given every record; writes those that are curves."""

    def __init__(self, directory: Path, rank: int = 0) -> None:
        """Begin an event file in a folder of the run, or of a rank in it: curves in one folder are drawn as one.

        Raises:
            DependencyError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                f"tensorboard is not installed ({error})", "torch's SummaryWriter needs it", "pip install tensorboard"
            ) from error
        self._writer: Any = SummaryWriter(str(directory / FOLDER / (f"rank{rank}" if rank else "")))

    def __call__(self, record: dict[str, Any]) -> None:
        """Write the scalars of a record; a disk that does not take them is warned of once."""
        if self._writer is None:
            return
        try:
            for name, value in _scalars(record):
                self._writer.add_scalar(name, value, record["step"])
            if record["kind"] in ("step", "evaluation"):
                self._writer.flush()
        except (OSError, ValueError) as error:
            self._writer = None
            print(f"xent watch: nothing more is written for TensorBoard ({error})", file=sys.stderr)

    def close(self) -> None:
        """Write no more."""
        if self._writer is not None:
            self._writer.close()


def _scalars(record: dict[str, Any]) -> list[tuple[str, float]]:
    kind = record["kind"]
    if kind == "step":
        found = {f"loss/{name}": record["ruler"][name] for name in ("floor", "prior", "uniform")}
        found |= {"loss/train": record["loss"], "accuracy/train": record["accuracy"]}
        found |= {f"learning_rate/{n}": rate for n, rate in enumerate(record["learning_rates"])}
        found |= {"rows_per_second": record["rows_per_second"]}
        found |= {f"seconds/{name}": value for name, value in record["seconds"].items()}
    elif kind == "layers":
        names = ("gradient_norm", "update_norm", "weight_norm", "update_ratio", "dead_fraction")
        found = {f"{name}/{layer['name']}": layer[name] for layer in record["layers"] for name in names}
    elif kind == "evaluation":
        found = {f"{name}/{record['split']}": record[name] for name in ("loss", "accuracy")}
    elif kind == "calibration":
        found = {"calibration_error": record["ece"]}
    else:
        found = {}
    return [(name, value) for name, value in found.items() if value is not None]
