"""Scores of a corpus or of saved rows, shard by shard.

A shard is `SHARD` consecutive texts (rows) of the corpus, whatever the batch size: the work list is a function of the
corpus alone, so that a stopped command goes on, and several processes share it (_sharing.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch

from xent.errors import DataError, XentError
from xent.scoring._corpora import Corpus, Text
from xent.scoring._saved_rows import SavedRows
from xent.scoring._score_files import COLUMNS, ScoreFiles
from xent.scoring._shard_work import Part, Scored, ShardWork
from xent.scoring._sharing import Sharing
from xent.scoring._surprisal import Scores, scores_of
from xent.scoring._text_scores import LanguageModel, Reading, TextScores, Tokens, score_texts, text_windows

SHARD, ROW_SHARD = 256, 1 << 16  # texts; rows without a text
_LN2 = math.log(2)
Told = Callable[[int], None]  # how many tokens were scored so far


def score_corpus(
    model: LanguageModel,
    corpus: Corpus,
    reading: Reading,
    files: ScoreFiles | None = None,
    sharing: Sharing | None = None,
    told: Told = lambda tokens: None,
) -> Scored | None:
    """Score every text of a corpus; None on the ranks but the first.

    Raises:
        DataError: a row is bad and the corpus does not skip such rows; shards that are done stay done.
        SystemExit: another rank failed, and says why.
    """
    work = ShardWork(files, sharing or Sharing(), told)
    for number, shard in enumerate(_shards(corpus.texts())):
        work.do(number, lambda shard=shard: _score_shard(model, corpus, shard, reading))
    return work.finish(corpus.skipped, corpus.faults)


def _shards(texts: Iterator[Text]) -> Iterator[list[Text]]:
    while shard := list(islice(texts, SHARD)):
        yield shard


def _score_shard(model: LanguageModel, corpus: Corpus, shard: list[Text], reading: Reading) -> Part:
    part = Part()
    good = list(_encoded(model, corpus, shard, reading, part))
    for text, scores in zip(good, score_texts(model, [tokens for _, tokens in good], reading), strict=True):
        fault = scores.fault()
        if fault:
            corpus.refuse(text[0].row, fault, "check the model")
            part.skip(text[0].row, fault)
            continue
        _add(text[0], scores, part)
    return part


def _encoded(
    model: LanguageModel, corpus: Corpus, shard: list[Text], reading: Reading, part: Part
) -> Iterator[tuple[Text, Tokens]]:
    for text in shard:
        try:
            tokens = model.encode(text.text)
            text_windows(tokens, reading)
        except XentError as error:
            fault = f"{error.got}; {error.need}"
            corpus.refuse(text.row, fault, error.do)
            part.skip(text.row, fault)
            continue
        yield text, tokens


def _add(text: Text, scores: TextScores, part: Part) -> None:
    """Add the tokens of a text to the columns; one that nothing predicts has no numbers."""
    tokens, columns, totals = scores.tokens, part.columns, part.totals
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
    sharing: Sharing | None = None,
    told: Told = lambda tokens: None,
) -> Scored | None:
    """Score rows that have logits and a target each; None on the ranks but the first.

    Raises:
        DataError: a row has NaN and `skip_bad` is not set.
        SystemExit: another rank failed, and says why.
    """
    work, count = ShardWork(files, sharing or Sharing(), told), len(rows.targets)
    for number, begin in enumerate(range(0, count, ROW_SHARD)):
        places = range(begin, min(begin + ROW_SHARD, count))
        work.do(number, lambda places=places: _score_rows(rows, places, ignore_index, skip_bad))
    return work.finish(0, [])


def _score_rows(rows: SavedRows, places: range, ignore_index: int, skip_bad: bool) -> Part:
    part = Part()
    columns, totals = part.columns, part.totals
    target = rows.targets[places.start : places.stop]
    counted = target != ignore_index
    scores = scores_of(_Rows(rows, places), target.masked_fill(~counted, 0))
    numbers = zip(target.tolist(), counted.tolist(), *_lists(scores), strict=True)
    for row, (index, counts, nats, rank, entropy) in zip(places, numbers, strict=True):
        if counts and not nats < math.inf:  # NaN too
            fault = "its logits are NaN" if nats != nats else "its target has no probability at all"
            _refuse(rows, row, fault, skip_bad)
            part.skip(row, fault)
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
    return part


def _refuse(rows: SavedRows, row: int, fault: str, skip_bad: bool) -> None:
    if not skip_bad:
        raise DataError(
            f"{rows.source}, row {row}: {fault}", "every row is scored", "mend it, or pass --skip-bad to leave it out"
        )


def _lists(scores: Scores) -> tuple[list[float], list[int], list[float]]:
    return scores.nats.tolist(), scores.rank.tolist(), scores.entropy.tolist()


class _Rows:
    """Some of the rows."""

    def __init__(self, rows: SavedRows, part: range) -> None:
        self._rows, self._begin = rows, part.start
        self.shape = torch.Size((len(part), rows.num_classes))

    def rows(self, begin: int, end: int) -> torch.Tensor:
        return self._rows.logits(self._begin + begin, self._begin + end)
