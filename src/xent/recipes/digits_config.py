"""The options of the digits recipe; loads no torch, so that the command line can show its defaults at once."""

from __future__ import annotations

import hashlib
import json
import reprlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from xent.errors import OptionError

Optimizer = Literal["sgd", "adam"]

DEFAULT_LR = {"sgd": 0.5, "adam": 1e-3}
_LARGEST = {
    "epochs": 1_000_000,
    "batch_size": 1_000_000,
    "hidden": 100_000,
}  # above: a slip of the finger, or no memory


@dataclass(frozen=True)
class DigitsConfig:
    """Options of one digits run; checked when built.

    Attributes:
        data: a directory of MNIST IDX files; None for scikit-learn's bundled digits.
        hidden: units of the hidden layer.
        optimizer: "sgd" or "adam".
        lr: learning rate; None for the optimizer's own default (`DEFAULT_LR`).
        epochs: passes over the training rows.
        batch_size: rows per step; the last step of an epoch takes what is left.
        seed: fixes the split, the first weights and the order of the rows.
        label_smoothing: share of the target spread evenly over all classes while training, in [0, 1).

    Raises:
        OptionError: an option of another type, or outside its range.
    """

    data: str | Path | None = None
    hidden: int = 50
    optimizer: Optimizer = "sgd"
    lr: float | None = None
    epochs: int = 30
    batch_size: int = 32
    seed: int = 0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_type("data", self.data, "a path", (str, Path, type(None)))
        if self.optimizer not in get_args(Optimizer):
            raise OptionError(
                f"optimizer is {reprlib.repr(self.optimizer)}", "it must be sgd or adam", "pass one of the two"
            )
        for name, largest in _LARGEST.items():
            _check_count(name, getattr(self, name), largest)
        _check_type("seed", self.seed, "a whole number", int)
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed is {self.seed}", "it must lie in [0, 2^63)", "pass another, such as 0")
        _check_type("label_smoothing", self.label_smoothing, "a number", (int, float))
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(
                f"label_smoothing is {self.label_smoothing}", "it must lie in [0, 1)", "pass a share such as 0.1"
            )
        _check_type("lr", self.learning_rate, "a number", (int, float))
        if not 0 < self.learning_rate <= sys.float_info.max:
            raise OptionError(
                f"lr is {self.lr}",
                "it must be a positive number",
                f"leave it out for {DEFAULT_LR[self.optimizer]}, the default of {self.optimizer}",
            )

    @property
    def learning_rate(self) -> float:
        """The learning rate in use: `lr`, or the optimizer's default."""
        return DEFAULT_LR[self.optimizer] if self.lr is None else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Every option with the value in use, ready for JSON."""
        data = None if self.data is None else str(self.data)
        return {**asdict(self), "data": data, "lr": self.learning_rate}

    def fingerprint(self, data_sha256: str) -> str:
        """Hash of all that decides the weights after a given epoch: every option but where to stop, and the data."""
        deciding = {name: value for name, value in self.to_dict().items() if name not in ("epochs", "data")}
        return hashlib.sha256(json.dumps([deciding, data_sha256], sort_keys=True).encode()).hexdigest()


def _check_type(name: str, value: object, need: str, types: type | tuple[type, ...]) -> None:
    if not isinstance(value, types) or isinstance(value, bool):  # a bool is an int to Python
        raise OptionError(f"{name} is {reprlib.repr(value)}", f"it must be {need}", "pass one")


def _check_count(name: str, value: int, largest: int) -> None:
    _check_type(name, value, "a whole number", int)
    if not 1 <= value <= largest:
        raise OptionError(f"{name} is {value}", f"it must lie in [1, {largest:,}]", "pass a count in that range")
