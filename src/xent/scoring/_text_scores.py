"""Scores of texts under a language model: windows in batches, and every token back in its place.

B windows, T positions of the longest one, N positions that are scored
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from xent.errors import OptionError
from xent.scoring._surprisal import Logits, scores_of
from xent.scoring._windows import Window, windows_of


@dataclass(frozen=True)
class Tokens:
    """A text as tokens.

    Attributes:
        ids: with the beginning token in front, where there is one.
        pieces: the part of the text that each token stands for; together they are the text, so that of several tokens
            inside one character all but the first have none.
        has_beginning: whether ids[0] is a token put before the text, which is no part of it.
    """

    ids: list[int]
    pieces: list[str]
    has_beginning: bool


class LanguageModel(Protocol):
    """What texts are scored with.

    Attributes:
        context: the most positions that it reads at once; None for no bound.
        notes: what a reader has to know of it, a line each.
    """

    context: int | None
    notes: list[str]

    def describe(self) -> str:
        """Its name, kind and sizes, in a line."""
        ...

    def beginning(self) -> str:
        """What stands before every text, in words."""
        ...

    def identity(self) -> dict[str, object]:
        """What its scores depend on: the same for the same model."""
        ...

    def encode(self, text: str) -> Tokens:
        """The tokens of a text.

        Raises:
            XentError: there are no tokens for it.
        """
        ...

    def logits(self, input_BT: Tensor, is_read_BT: Tensor, is_scored_BT: Tensor) -> Logits:
        """Logits (N, V) of the positions that are scored."""
        ...


@dataclass(frozen=True)
class Reading:
    """How texts are read: windows of `context` positions, moved by `stride`; so many windows at once."""

    context: int | None = None
    stride: int | None = None
    batch_size: int = 8


@dataclass
class TextScores:
    """Of each token of a text after the first one of `tokens.ids`: nats, rank and entropy."""

    tokens: Tokens
    nats: list[float] = field(default_factory=list)
    rank: list[int] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)

    def fault(self) -> str | None:
        """What is wrong with a score, in words."""
        for place, nats in enumerate(self.nats):
            if not nats < float("inf"):  # NaN too
                what = "NaN" if nats != nats else "no probability at all"
                return f"the model gives token {place + 1} ({self._piece(place)!r}) {what}"
        return None

    def _piece(self, place: int) -> str:
        return self.tokens.pieces[place if self.tokens.has_beginning else place + 1]


def text_windows(tokens: Tokens, reading: Reading) -> list[Window]:
    """The windows of a text.

    Raises:
        OptionError: it is longer than the context and there is no stride.
    """
    return windows_of(len(tokens.ids), reading.context, reading.stride)


def score_texts(model: LanguageModel, texts: Sequence[Tokens], reading: Reading) -> list[TextScores]:
    """Score texts; the numbers do not depend on which texts share a batch, but for roundings of the model's products.

    Raises:
        OptionError: a text is longer than the context and there is no stride.
    """
    made = [TextScores(tokens) for tokens in texts]
    work = [(text, window) for text, tokens in enumerate(texts) for window in text_windows(tokens, reading)]
    by_length = sorted(range(len(work)), key=lambda place: work[place][1].end - work[place][1].begin)
    scored: dict[int, tuple[list[float], list[int], list[float]]] = {}
    for begin in range(0, len(by_length), reading.batch_size):
        places = by_length[begin : begin + reading.batch_size]
        pieces = _score_windows(model, [(texts[work[place][0]], work[place][1]) for place in places])
        scored.update(zip(places, pieces, strict=True))
    for place, (text, _) in enumerate(work):  # windows of a text in their order
        nats, rank, entropy = scored[place]
        made[text].nats += nats
        made[text].rank += rank
        made[text].entropy += entropy
    return made


def _score_windows(
    model: LanguageModel, windows: Sequence[tuple[Tokens, Window]]
) -> list[tuple[list[float], list[int], list[float]]]:
    longest = max(window.end - 1 - window.begin for _, window in windows)
    input_BT = torch.zeros(len(windows), longest, dtype=torch.int64)
    is_read_BT = torch.zeros(len(windows), longest, dtype=torch.bool)
    is_scored_BT = torch.zeros(len(windows), longest, dtype=torch.bool)
    targets: list[int] = []
    for row, (tokens, (begin, first, end)) in enumerate(windows):
        input_BT[row, : end - 1 - begin] = torch.tensor(tokens.ids[begin : end - 1])
        is_read_BT[row, : end - 1 - begin] = True
        is_scored_BT[row, first - 1 - begin : end - 1 - begin] = True  # position p predicts token p + 1
        targets += tokens.ids[first:end]
    scores = scores_of(model.logits(input_BT, is_read_BT, is_scored_BT), torch.tensor(targets))
    counts = [window.end - window.first for _, window in windows]
    columns = (part.split(counts) for part in (scores.nats, scores.rank, scores.entropy))
    return [(nats.tolist(), rank.tolist(), entropy.tolist()) for nats, rank, entropy in zip(*columns, strict=True)]


def check_reading(reading: Reading, model: LanguageModel) -> Reading:
    """The reading with the model's own context where none is given.

    Raises:
        OptionError: more context than the model has, or a stride outside 1 … context.
    """
    most = model.context
    context = most if reading.context is None else reading.context
    if context is not None and (context < 1 or (most is not None and context > most)):
        raise OptionError(
            f"--context {context}", f"the model reads 1 to {most} tokens at once", f"pass no more than {most}"
        )
    if reading.stride is not None and context is None:
        raise OptionError(
            f"--stride {reading.stride} and no context",
            "the model says no bound of its context",
            "pass --context too, or neither",
        )
    if reading.stride is not None and context is not None and not 1 <= reading.stride <= context:
        raise OptionError(
            f"--stride {reading.stride}",
            f"a window moves by 1 to {context} tokens, its context",
            f"pass such as --stride {max(context // 2, 1)}",
        )
    return Reading(context, reading.stride, reading.batch_size)
