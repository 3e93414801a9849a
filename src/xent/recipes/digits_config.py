"""The options of the digits recipe; loads no torch, so that the command line can show its defaults at once."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from xent.errors import OptionError
from xent.recipes._run_options import RunOptions, check_count, check_one_of, check_seed, check_type

Optimizer = Literal["sgd", "adam"]

DEFAULT_LR = {"sgd": 0.5, "adam": 1e-3}
_LARGEST = {
    "epochs": 1_000_000,
    "batch_size": 1_000_000,
    "hidden": 100_000,
}  # above: a slip of the finger, or no memory


@dataclass(frozen=True)
class DigitsConfig(RunOptions):
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
        check_type("data", self.data, "a path", (str, Path, type(None)))
        check_one_of("optimizer", self.optimizer, get_args(Optimizer))
        for name, largest in _LARGEST.items():
            check_count(name, getattr(self, name), largest)
        check_seed(self.seed)
        check_type("label_smoothing", self.label_smoothing, "a number", (int, float))
        if not 0 <= self.label_smoothing < 1:
            raise OptionError(
                f"label_smoothing is {self.label_smoothing}", "it must lie in [0, 1)", "pass a share such as 0.1"
            )
        check_type("lr", self.learning_rate, "a number", (int, float))
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
