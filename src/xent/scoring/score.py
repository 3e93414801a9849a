"""Scores of a corpus or of saved rows, shard by shard.

A shard is `SHARD` consecutive texts (rows) of the corpus, whatever the batch size: the work list is a function of the
corpus alone, so that a stopped command goes on, and several processes can share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch

from xent.errors import DataError, XentError
from xent.scoring._corpora import Corpus, Text
from xent.scoring._saved_rows import SavedRows
from xent.scoring._score_files import COLUMNS, Columns, ScoreFiles
from xent.scoring._surprisal import Scores, scores_of
from xent.scoring._text_scores import LanguageModel, Reading, TextScores, Tokens, score_texts, text_windows
from xent.scoring._totals import Totals

SHARD, ROW_SHARD = 256, 1 << 16  # texts; rows without a text
SHOWN = 20_000  # tokens that a page shows
_LN2 = math.log(2)


@dataclass
class Scored:
    """What came out.

    Attributes:
        totals: of everything.
        shown: the scores of the first tokens, for a page.
        resumed: shards that an earlier command had done.
        faults: the first bad rows in words.
    """

    totals: Totals
    shown: Columns = field(default_factory=lambda: {name: [] for name in COLUMNS})
    resumed: int = 0
    faults: list[str] = field(default_factory=list)

    def show(self, columns: Columns) -> None:
        """Keep scores for a page, as many as it shows."""
        room = SHOWN - len(self.shown["nats"])
        for name in COLUMNS:
            self.shown[name] += columns[name][:room]


def score_corpus(
    model: LanguageModel,
    corpus: Corpus,
    reading: Reading,
    files: ScoreFiles | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Scored:
    """Score every text of a corpus.

    Raises:
        DataError: a row is bad and the corpus does not skip such rows; shards that are done stay done.
    """
    scored, parts = Scored(Totals()), []
    texts = corpus.texts()
    for shard in _shards(texts):
        totals = files.done(len(parts)) if files else None
        if totals is None:
            columns, totals = _score_shard(model, corpus, shard, reading)
            if files:
                files.write(len(parts), columns, totals)
            scored.show(columns)
        else:
            scored.resumed += 1
            corpus.skipped += totals.skipped
            if files and len(scored.shown["nats"]) < SHOWN:
                scored.show(files.read(len(parts)))
        parts.append(totals)
        progress(totals.tokens)
    if files:
        files.join(len(parts))
    scored.totals = Totals.sum(parts)
    scored.totals.skipped = corpus.skipped
    scored.faults = corpus.faults
    return scored


def _shards(texts: Iterator[Text]) -> Iterator[list[Text]]:
    while shard := list(islice(texts, SHARD)):
        yield shard


def _score_shard(model: LanguageModel, corpus: Corpus, shard: list[Text], reading: Reading) -> tuple[Columns, Totals]:
    totals, columns = Totals(), {name: [] for name in COLUMNS}
    good = list(_encoded(model, corpus, shard, reading, totals))
    for text, scores in zip(good, score_texts(model, [tokens for _, tokens in good], reading), strict=True):
        fault = scores.fault()
        if fault:
            totals.skipped += 1
            corpus.refuse(text[0].row, fault, "check the model")
            continue
        _add(text[0], scores, columns, totals)
    return columns, totals


def _encoded(
    model: LanguageModel, corpus: Corpus, shard: list[Text], reading: Reading, totals: Totals
) -> Iterator[tuple[Text, Tokens]]:
    for text in shard:
        try:
            tokens = model.encode(text.text)
            text_windows(tokens, reading)
        except XentError as error:
            corpus.refuse(text.row, f"{error.got}; {error.need}", error.do)
            totals.skipped += 1
            continue
        yield text, tokens


def _add(text: Text, scores: TextScores, columns: Columns, totals: Totals) -> None:
    """Add the tokens of a text to the columns; one that nothing predicts has no numbers."""
    tokens = scores.tokens
    ids = tokens.ids[1:] if tokens.has_beginning else tokens.ids
    unscored = len(ids) - len(scores.nats)
    empty: list[None] = [None] * unscored
    columns["row"] += [text.row] * len(ids)
    columns["position"] += range(len(ids))
    columns["id"] += ids
    columns["token"] += tokens.pieces
    columns["nats"] += [*empty, *scores.nats]
    columns["bits"] += [*empty, *(nats / _LN2 for nats in scores.nats)]
    columns["rank"] += [*empty, *scores.rank]
    columns["entropy"] += [*empty, *scores.entropy]
    totals.add_text(text.text)
    totals.nats = math.fsum([totals.nats, *scores.nats])
    totals.entropy = math.fsum([totals.entropy, *scores.entropy])
    totals.tokens += len(scores.nats)
    totals.unscored += unscored
    totals.first_ranks += sum(rank == 1 for rank in scores.rank)


def score_rows(
    rows: SavedRows,
    ignore_index: int,
    skip_bad: bool,
    files: ScoreFiles | None = None,
    progress: Callable[[int], None] = lambda tokens: None,
) -> Scored:
    """Score rows that have logits and a target each.

    Raises:
        DataError: a row has NaN and `skip_bad` is not set.
    """
    scored, parts, count = Scored(Totals()), [], len(rows.targets)

    def refuse(row: int, fault: str) -> None:
        if not skip_bad:
            raise DataError(
                f"{rows.source}, row {row}: {fault}",
                "every row is scored",
                "mend it, or pass --skip-bad to leave it out",
            )
        if len(scored.faults) < 3:
            scored.faults.append(f"row {row}: {fault}")

    for begin in range(0, count, ROW_SHARD):
        totals = files.done(len(parts)) if files else None
        if totals is None:
            columns, totals = _score_rows(rows, range(begin, min(begin + ROW_SHARD, count)), ignore_index, refuse)
            if files:
                files.write(len(parts), columns, totals)
        else:
            scored.resumed += 1
        parts.append(totals)
        progress(totals.tokens)
    if files:
        files.join(len(parts))
    scored.totals = Totals.sum(parts)
    return scored


def _score_rows(
    rows: SavedRows, part: range, ignore_index: int, refuse: Callable[[int, str], None]
) -> tuple[Columns, Totals]:
    totals, columns = Totals(), {name: [] for name in COLUMNS}
    target = rows.targets[part.start : part.stop]
    counted = target != ignore_index
    scores = scores_of(_Part(rows, part), target.masked_fill(~counted, 0))
    numbers = zip(target.tolist(), counted.tolist(), *_lists(scores), strict=True)
    for row, (index, counts, nats, rank, entropy) in zip(part, numbers, strict=True):
        if counts and not nats < math.inf:  # NaN too
            totals.skipped += 1
            refuse(row, "its logits are NaN" if nats != nats else "its target has no probability at all")
            continue
        place = (row, None) if rows.positions is None else divmod(row, rows.positions)
        made = (nats, nats / _LN2, rank, entropy) if counts else (None,) * 4
        for name, value in zip(COLUMNS, (*place, index, None, *made), strict=True):
            columns[name].append(value)
    counted_nats = [nats for nats in columns["nats"] if nats is not None]
    totals.nats, totals.tokens = math.fsum(counted_nats), len(counted_nats)
    totals.entropy = math.fsum(value for value in columns["entropy"] if value is not None)
    totals.first_ranks = columns["rank"].count(1)
    totals.unscored = len(columns["nats"]) - totals.tokens
    return columns, totals


def _lists(scores: Scores) -> tuple[list[float], list[int], list[float]]:
    return scores.nats.tolist(), scores.rank.tolist(), scores.entropy.tolist()


class _Part:
    """Some of the rows."""

    def __init__(self, rows: SavedRows, part: range) -> None:
        self._rows, self._begin = rows, part.start
        self.shape = torch.Size((len(part), rows.num_classes))

    def rows(self, begin: int, end: int) -> torch.Tensor:
        return self._rows.logits(self._begin + begin, self._begin + end)
