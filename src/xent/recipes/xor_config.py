"""The options of the xor recipe; loads no torch, so that the command line can show its defaults at once."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any

from xent.errors import OptionError
from xent.recipes._run_options import RunOptions, check_count, check_seed, check_type

_LARGEST = {"hidden": 100_000, "epochs": 1_000_000, "steps": 1_000_000}  # above: a slip of the finger


@dataclass(frozen=True)
class XorConfig(RunOptions):
    """Options of one xor run; checked when built.

    Attributes:
        data: None; the four corners are in the recipe.
        hidden: units of the hidden layer.
        sigmoid_before_loss: make the classic mistake: a sigmoid before a loss that applies one itself.
        lr: learning rate of Adam.
        epochs: stretches of `steps` steps, each measured and saved.
        steps: steps of an epoch, each on all four corners.
        seed: fixes the first weights.

    Raises:
        OptionError: an option of another type, or outside its range.
    """

    data: None = None
    hidden: int = 4
    sigmoid_before_loss: bool = False
    lr: float = 0.05
    epochs: int = 10
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data is not None:
            raise OptionError(f"data is {self.data!r}", "the four corners are in the recipe", "leave it out")
        for name, largest in _LARGEST.items():
            check_count(name, getattr(self, name), largest)
        if not isinstance(self.sigmoid_before_loss, bool):
            raise OptionError(
                f"sigmoid_before_loss is {self.sigmoid_before_loss!r}", "it must be true or false", "pass one"
            )
        check_seed(self.seed)
        check_type("lr", self.lr, "a number", (int, float))
        if not 0 < self.lr <= sys.float_info.max:
            raise OptionError(f"lr is {self.lr}", "it must be a positive number", "leave it out for 0.05")

    def to_dict(self) -> dict[str, Any]:
        """Every option, ready for JSON."""
        return asdict(self)
