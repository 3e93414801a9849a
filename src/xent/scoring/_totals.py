"""Sums over everything that was scored, and what is computed of them: every mean is one sum over another."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

_LN2 = math.log(2)
_WHITESPACE = re.compile(r"\s+")


@dataclass
class Totals:
    r"""What was counted.

    Attributes:
        nats: surprisal of all scored tokens.
        entropy: entropy of all their predictions, in nats.
        tokens: scored ones; rows, where there are no texts.
        unscored: tokens that nothing predicts: the first of a text without a beginning token before it.
        texts: scored ones.
        bytes: of these texts in UTF-8.
        characters: code points.
        words: pieces between runs of whitespace, counted as lm-evaluation-harness does (re.split(r"\s+")).
        first_ranks: tokens that were the likeliest.
        skipped: bad rows that were left out.
    """

    nats: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    unscored: int = 0
    texts: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    first_ranks: int = 0
    skipped: int = 0

    def add_text(self, text: str) -> None:
        """Count the sizes of a text."""
        self.texts += 1
        self.bytes += len(text.encode("utf-8", "surrogatepass"))
        self.characters += len(text)
        self.words += len(_WHITESPACE.split(text))

    @classmethod
    def sum(cls, parts: list[Totals]) -> Totals:
        """All of them; sums of floats are exact up to one rounding, in any order."""
        columns = {name: [getattr(part, name) for part in parts] for name in asdict(cls())}
        sums: dict[str, Any] = {
            name: math.fsum(values) if name in ("nats", "entropy") else sum(values) for name, values in columns.items()
        }
        return cls(**sums)

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the means and perplexities of those that are not 0."""
        return {**asdict(self), **self.means()}

    def means(self) -> dict[str, float]:
        """Nats and bits for each token, byte and character; perplexities of a token, a word and a byte."""
        bits = self.nats / _LN2
        made: dict[str, float] = {}
        if self.tokens:
            made["nats_per_token"] = self.nats / self.tokens
            made["bits_per_token"] = bits / self.tokens
            made["perplexity"] = _exp(self.nats / self.tokens)
            made["entropy_per_token"] = self.entropy / self.tokens
            made["accuracy"] = self.first_ranks / self.tokens
        if self.bytes and self.tokens:
            made["bits_per_byte"] = bits / self.bytes
            made["bits_per_character"] = bits / self.characters
            made["byte_perplexity"] = _exp(self.nats / self.bytes)
            made["word_perplexity"] = _exp(self.nats / self.words)
        return made


def _exp(nats: float) -> float:
    """The perplexity of a mean; above 709 nats it is no double any more, and infinite."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
