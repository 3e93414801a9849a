"""The options of the language_model recipe; loads no torch, so that the command line can show its defaults at once."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from xent.errors import OptionError
from xent.recipes._run_options import RunOptions, check_count, check_one_of, check_seed, check_type

Tokens = Literal["byte", "char", "bpe"]
Model = Literal["lstm", "transformer"]

DEFAULT_LR = {"lstm": 4e-3, "transformer": 2e-3}
DEFAULT_VOCABULARY = 4096  # of bpe
DEFAULT_HEADS = 4  # of the transformer
DEFAULT_MAX_BYTES = 3_000_000  # of the default corpus; a corpus of the user's own is read whole
_LEAST = {"context": 2, "vocabulary": 256, "max_bytes": 1000}  # 256: every byte is a token of bpe
_LARGEST = {
    "epochs": 1_000_000,
    "steps": 1_000_000,
    "batch_size": 100_000,
    "context": 100_000,
    "features": 16_384,
    "layers": 100,
    "threads": 1024,
    "heads": 1024,
    "vocabulary": 1_000_000,
    "max_bytes": 2**40,
    "max_validation_tokens": 2**40,
}  # above: a slip of the finger, or no memory


@dataclass(frozen=True)
class LanguageModelConfig(RunOptions):
    """Options of one language_model run; checked when built.

    Attributes:
        data: text files and folders of them; None for the source of Python's standard library.
        max_bytes: read no more of the corpus than this; None for all of `data`, or `DEFAULT_MAX_BYTES` of the library.
        tokens: "byte", "char", or "bpe" (byte pair encoding).
        vocabulary: tokens of bpe; None for `DEFAULT_VOCABULARY`. The others have as many as they have.
        validation_share: share of the text, at its end, that validates, in (0, 1).
        max_validation_tokens: measure on no more tokens of each part than this; None for the whole validation part.
        model: "lstm" or "transformer".
        features: D, size of a hidden state.
        layers: layers of the model.
        heads: attention heads of the transformer; None for `DEFAULT_HEADS`.
        context: tokens of a window; each but the first is predicted from those before it.
        lr: highest learning rate of Adam; None for the model's own default (`DEFAULT_LR`).
        epochs: stretches of `steps` steps, each measured and saved.
        steps: steps of an epoch.
        batch_size: windows per step.
        seed: fixes the first weights, the windows that are drawn, and the text that is sampled.
        threads: of torch, whose last bits depend on it; None for as many as torch takes, which the run then keeps.

    Raises:
        OptionError: an option of another type, outside its range, or of no use beside another.
    """

    data: Sequence[str | Path] | None = None
    max_bytes: int | None = None
    tokens: Tokens = "byte"
    vocabulary: int | None = None
    validation_share: float = 0.05
    max_validation_tokens: int | None = None
    model: Model = "lstm"
    features: int = 192
    layers: int = 2
    heads: int | None = None
    context: int = 128
    lr: float | None = None
    epochs: int = 10
    steps: int = 150
    batch_size: int = 16
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_paths(self.data)
        check_one_of("tokens", self.tokens, get_args(Tokens))
        check_one_of("model", self.model, get_args(Model))
        for name, largest in _LARGEST.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), largest, _LEAST.get(name, 1))
        check_seed(self.seed)
        check_type("validation_share", self.validation_share, "a number", (int, float))
        if not 0 < self.validation_share < 1:
            raise OptionError(
                f"validation_share is {self.validation_share}", "it must lie in (0, 1)", "pass a share such as 0.1"
            )
        check_type("lr", self.learning_rate, "a number", (int, float))
        if not 0 < self.learning_rate <= sys.float_info.max:
            raise OptionError(
                f"lr is {self.lr}",
                "it must be a positive number",
                f"leave it out for {DEFAULT_LR[self.model]}, the default of {self.model}",
            )
        self._check_what_goes_together()

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: `lr`, or the model's default."""
        return DEFAULT_LR[self.model] if self.lr is None else self.lr

    @property
    def most_bytes(self) -> int | None:
        """What of the corpus is read at most; None for all of it."""
        return DEFAULT_MAX_BYTES if self.max_bytes is None and self.data is None else self.max_bytes

    def to_dict(self) -> dict[str, Any]:
        """Every option with the value in use, ready for JSON."""
        return {
            **asdict(self),
            "data": None if self.data is None else [str(path) for path in self.data],
            "max_bytes": self.most_bytes,
            "vocabulary": (self.vocabulary or DEFAULT_VOCABULARY) if self.tokens == "bpe" else None,
            "heads": (self.heads or DEFAULT_HEADS) if self.model == "transformer" else None,
            "lr": self.learning_rate,
        }

    def _check_what_goes_together(self) -> None:
        if self.vocabulary is not None and self.tokens != "bpe":
            raise OptionError(
                f"vocabulary is {self.vocabulary} but tokens is {self.tokens}",
                "only bpe has a vocabulary to choose",
                "pass --tokens bpe, or leave --vocabulary out",
            )
        if self.model == "lstm":
            if self.heads is not None:
                raise OptionError(
                    f"heads is {self.heads} but model is lstm",
                    "only the transformer has heads",
                    "pass --model transformer, or leave --heads out",
                )
        elif self.features % (heads := self.heads or DEFAULT_HEADS):
            raise OptionError(
                f"features is {self.features} and heads is {heads}",
                "each head takes an equal share of the features",
                f"pass --features {(self.features // heads + 1) * heads}",
            )


@dataclass(frozen=True)
class SampleOptions:
    """What is asked of the text at the end of a training; it decides no weight and is not kept with the run.

    Attributes:
        tokens: how many to draw; 0 for no text.
        prompt: what the text goes on from; None for the first words of the validation part.
        temperature: divides the logits; 0 for the most probable token always.

    Raises:
        OptionError: an option of another type, or outside its range.
    """

    tokens: int = 400
    prompt: str | None = None
    temperature: float = 0.8

    def __post_init__(self) -> None:
        check_count("sample", self.tokens, 1_000_000, least=0)
        check_type("prompt", self.prompt, "text", (str, type(None)))
        if self.prompt is not None and not _is_text(self.prompt):
            raise OptionError(
                f"prompt is {reprlib.repr(self.prompt)}",
                "it must be one character or more of UTF-8",
                "pass such as --prompt 'def '",
            )
        check_type("temperature", self.temperature, "a number", (int, float))
        if not 0 <= self.temperature <= sys.float_info.max:
            raise OptionError(
                f"temperature is {self.temperature}",
                "it must be a number of 0 or more",
                "pass 1 to sample from what the model predicts, or less to stay nearer to what it holds probable",
            )


def _check_paths(data: object) -> None:
    need = "a list of paths"
    check_type("data", data, need, (list, tuple, type(None)))
    if isinstance(data, (list, tuple)):
        if not data:
            raise OptionError("data is []", "it must name a file or a folder", "pass one, or leave it out")
        for path in data:
            check_type("data", path, need, (str, Path))
            if not str(path):  # it would be the working directory
                raise OptionError("data is ''", "a path has a name", "pass another, or . for this directory")


def _is_text(prompt: str) -> bool:
    try:
        return bool(prompt.encode())
    except UnicodeEncodeError:  # what the shell passed is no UTF-8
        return False
