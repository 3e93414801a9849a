"""The options of the text recipe; loads no torch, so that the command line can show its defaults at once."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from xent.errors import OptionError
from xent.recipes._run_options import RunOptions, check_count, check_one_of, check_seed, check_type

Pooling = Literal["last", "attention"]

DEFAULT_FEATURES = 100  # of an embedding trained from scratch; a pipeline's vectors have their own
DEFAULT_MIN_COUNT = 2
_LARGEST = {
    "features": 16_384,
    "min_count": 1_000_000,
    "hidden": 16_384,
    "max_tokens": 100_000,
    "epochs": 1_000_000,
    "batch_size": 100_000,
    "threads": 1024,
}  # above: a slip of the finger, or no memory


@dataclass(frozen=True)
class TextConfig(RunOptions):
    """Options of one text run; checked when built.

    Attributes:
        data: a table of texts and labels; None for the docstrings of Python's standard library.
        text_column: the column of the texts.
        label_column: the column of the labels.
        skip_bad: leave bad rows out and count them; otherwise the first one ends the run before it began.
        vectors: a spaCy pipeline, by name or path, whose word vectors are used; None to train embeddings.
        stop_words: a file of words to leave out, one a line; None for none.
        features: D, size of a trained embedding; None for `DEFAULT_FEATURES`.
        min_count: a word rarer than this in the training part is unknown; None for `DEFAULT_MIN_COUNT`.
        hidden: units of the LSTM.
        pooling: "last" hidden state, or "attention" over all of them.
        max_tokens: of a text, its first ones.
        class_weights: weight the classes by the inverse of their frequency while training.
        validation_share: share of the rows, drawn by `seed`, that validates, in (0, 1).
        lr: learning rate of Adam.
        epochs: passes over the training rows.
        batch_size: rows per step.
        seed: fixes the split, the first weights and the order of the rows.
        threads: of torch, whose last bits depend on it; None for as many as torch takes, which the run then keeps.

    Raises:
        OptionError: an option of another type, outside its range, or of no use beside another.
    """

    data: str | Path | None = None
    text_column: str = "text"
    label_column: str = "label"
    skip_bad: bool = False
    vectors: str | Path | None = None
    stop_words: str | Path | None = None
    features: int | None = None
    min_count: int | None = None
    hidden: int = 100
    pooling: Pooling = "last"
    max_tokens: int = 200
    class_weights: bool = False
    validation_share: float = 0.1
    lr: float = 3e-3
    epochs: int = 5
    batch_size: int = 32
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("data", "vectors", "stop_words"):
            check_type(name, getattr(self, name), "a path", (str, Path, type(None)))
            if str(getattr(self, name)) in ("", "."):
                raise OptionError(f"{name} is {str(getattr(self, name))!r}", "it must be a name or path", "pass one")
        for name in ("text_column", "label_column"):
            check_type(name, getattr(self, name), "a column's name", str)
        for name in ("skip_bad", "class_weights"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {getattr(self, name)!r}", "it must be true or false", "pass one")
        check_one_of("pooling", self.pooling, get_args(Pooling))
        for name, largest in _LARGEST.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), largest)
        check_seed(self.seed)
        self._check_numbers()
        self._check_what_goes_together()

    def to_dict(self) -> dict[str, Any]:
        """Every option with the value in use, ready for JSON."""
        paths = {name: _as_text(getattr(self, name)) for name in ("data", "vectors", "stop_words")}
        scratch = self.vectors is None
        return {
            **asdict(self),
            **paths,
            "features": (self.features or DEFAULT_FEATURES) if scratch else None,
            "min_count": (self.min_count or DEFAULT_MIN_COUNT) if scratch else None,
        }

    def _check_numbers(self) -> None:
        check_type("validation_share", self.validation_share, "a number", (int, float))
        if not 0 < self.validation_share < 1:
            raise OptionError(
                f"validation_share is {self.validation_share}", "it must lie in (0, 1)", "pass a share such as 0.1"
            )
        check_type("lr", self.lr, "a number", (int, float))
        if not 0 < self.lr <= sys.float_info.max:
            raise OptionError(f"lr is {self.lr}", "it must be a positive number", "leave it out for 0.003")

    def _check_what_goes_together(self) -> None:
        if self.vectors is not None:
            for name in ("features", "min_count"):
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise OptionError(
                        f"{name} is {getattr(self, name)} but vectors are given",
                        "only embeddings trained from scratch have it",
                        f"leave {option} or --vectors out",
                    )
        if self.text_column == self.label_column:
            raise OptionError(
                f"text_column and label_column are both {self.text_column!r}", "they must differ", "pass another"
            )
        if self.data is None and (self.text_column, self.label_column, self.skip_bad) != ("text", "label", False):
            raise OptionError(
                "a column or --skip-bad is given without data", "they are of a table", "pass --data with its path"
            )


def _as_text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
