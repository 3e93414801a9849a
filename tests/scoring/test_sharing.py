"""Is a corpus that several ranks score the corpus that one scores: the same bytes, in order, nothing lost or twice?

Ranks are threads with one store between them; real processes are in test_score_processes.py.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from xent.errors import DataError, DistributedError
from xent.scoring import _sharing, score
from xent.scoring._corpora import Corpus
from xent.scoring._saved_rows import SavedRows
from xent.scoring._score_files import ScoreFiles
from xent.scoring._shard_work import Scored
from xent.scoring._sharing import SharedWork, Sharing
from xent.scoring._text_scores import Reading, Tokens

SHARD = 3
TEXTS = ["ab", None, "abc" * 5, "a", *("bca" * (number % 7) + "c" for number in range(25))]


class Counting:
    """A language model of three tokens, whose logits depend on the place and the token before."""

    context: int | None = None
    notes: list[str] = []  # noqa: RUF012

    def describe(self) -> str:
        return "counting"

    def beginning(self) -> str:
        return "none"

    def identity(self) -> dict[str, object]:
        return {}

    def encode(self, text: str) -> Tokens:
        if "!" in text:
            raise DataError("a text with !", "this model refuses it", "leave it out")
        return Tokens([ord(letter) - ord("a") for letter in text], list(text), has_beginning=False)

    def logits(self, input_BT: torch.Tensor, is_read_BT: torch.Tensor, is_scored_BT: torch.Tensor) -> Any:
        place = torch.arange(input_BT.shape[1]).expand_as(input_BT)
        logits_BTV = torch.stack([input_BT * 0.7, place.sin(), (place + input_BT).cos() / 3], -1)
        return _Rows(logits_BTV[is_scored_BT])


class _Rows:
    def __init__(self, logits: torch.Tensor) -> None:
        self._logits, self.shape = logits, logits.shape

    def rows(self, begin: int, end: int) -> torch.Tensor:
        return self._logits[begin:end]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "SHARD", SHARD)
    monkeypatch.setattr(score, "ROW_SHARD", 4)
    monkeypatch.setattr(_sharing, "_POLL", 0.001)
    monkeypatch.setattr(_sharing, "_LEAVE", 0.0)


def on_ranks(size: int, work: Callable[[Sharing], Any]) -> list[Any]:
    """What `work` returned or raised on each of `size` ranks."""
    store, found = HashStore(), [None] * size

    def run(rank: int) -> None:
        shared = SharedWork(rank, size, store)
        try:
            found[rank] = work(shared)
        except BaseException as error:
            shared.claims_failure()
            found[rank] = error
        finally:
            shared.end()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def corpus_of(tmp_path: Path, texts: list[str | None]) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def scored(path: Path, out: Path, sharing: Sharing) -> Scored | None:
    return score.score_corpus(Counting(), Corpus(path, skip_bad=True), Reading(), ScoreFiles(out, {}), sharing)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])  # 12: more ranks than there are shards
def test_what_comes_out_is_what_one_process_makes(tmp_path: Path, size: int) -> None:
    path = corpus_of(tmp_path, [*TEXTS, "!a", *TEXTS, "b!", "!", "!!"])
    alone = scored(path, tmp_path / "alone.jsonl", Sharing())
    first, *others = on_ranks(size, lambda sharing: scored(path, tmp_path / "shared.jsonl", sharing))
    assert others == [None] * (size - 1), others
    assert first == alone
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert alone is not None
    assert alone.totals.skipped == 6  # two that are no text, four with a !
    assert [fault[:6] for fault in alone.faults] == ["row 2:", "row 32", "row 30"]
    rows = [json.loads(line)["row"] for line in (tmp_path / "shared.jsonl").read_text().splitlines()]
    assert rows == sorted(rows)
    assert sorted(set(rows)) == [row for row, text in enumerate([*TEXTS, "!", *TEXTS], 1) if text not in (None, "!")]


def test_a_page_shows_the_first_tokens_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xent.scoring._shard_work.SHOWN", 40)
    path = corpus_of(tmp_path, TEXTS)
    corpus = lambda: Corpus(path, skip_bad=True)  # noqa: E731
    alone = score.score_corpus(Counting(), corpus(), Reading())
    first, *_ = on_ranks(3, lambda sharing: score.score_corpus(Counting(), corpus(), Reading(), None, sharing))
    assert first == alone
    assert len(first.shown["nats"]) == 40


def test_a_stopped_command_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    path, out = corpus_of(tmp_path, TEXTS), tmp_path / "scores.jsonl"
    alone = scored(path, tmp_path / "alone.jsonl", Sharing())
    assert alone is not None
    stopping = Counting()
    stopping.encode = _stopped_at(4, stopping.encode)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        score.score_corpus(stopping, Corpus(path, skip_bad=True), Reading(), ScoreFiles(out, {}))
    first, *_ = on_ranks(3, lambda sharing: scored(path, out, sharing))
    assert first.resumed == 1
    assert first.totals == alone.totals
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def _stopped_at(number: int, encode: Callable[[str], Tokens]) -> Callable[[str], Tokens]:
    left = [number]

    def stopping(text: str) -> Tokens:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return encode(text)

    return stopping


def test_saved_rows(tmp_path: Path) -> None:
    logits, target = torch.randn(4 * 6 + 1, 5), torch.arange(25) % 5
    logits[7] = math.nan
    rows = SavedRows("rows", {}, target, None, logits)
    alone = score.score_rows(rows, 4, skip_bad=True)
    first, *_ = on_ranks(3, lambda sharing: score.score_rows(rows, 4, True, None, sharing))
    assert first == alone
    assert (first.totals.tokens, first.totals.unscored, first.totals.skipped) == (19, 5, 1)


def test_a_rank_that_fails_ends_the_others_and_alone_says_why(tmp_path: Path) -> None:
    texts = [text for text in TEXTS * 3 if text]
    path = corpus_of(tmp_path, [*texts[:9], "!", *texts[9:]])

    def work(sharing: Sharing) -> Any:
        return score.score_corpus(Counting(), Corpus(path), Reading(), None, sharing)

    found = on_ranks(3, work)
    failures = [error for error in found if isinstance(error, DataError)]
    assert len(failures) == 1
    assert "a text with !" in str(failures[0])
    assert found[0] is not None, "rank 0 has no result of a part"
    # A rank that is done before the failure has told rank 0, and ends well.
    assert all(error is None or isinstance(error, SystemExit) for error in found if error is not failures[0])


def test_a_rank_that_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sharing, "_SILENT_POLLS", 20)
    shared = SharedWork(0, 2, HashStore())
    with pytest.raises(DistributedError, match="rank 1 of 2 gave no sign of life"):
        shared.collected({})
    shared.end()


def test_ranks_that_read_different_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [corpus_of(tmp_path / "a", ["ab"] * 9), corpus_of(tmp_path / "b", ["ab"] * 6)]
    read = lambda sharing: score.score_corpus(Counting(), Corpus(paths[sharing.rank]), Reading(), None, sharing)  # noqa: E731
    first, _ = on_ranks(2, read)
    assert isinstance(first, DataError)
    assert "the ranks read 2 and 3 shards" in str(first)


def test_a_value_of_any_length_travels() -> None:
    long = {"numbers": torch.randn(3000, generator=torch.Generator().manual_seed(0)).tolist(), "text": "é" * 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sharing, "_PIECE", 1000)
        first, second = on_ranks(2, lambda sharing: sharing.collected(long))
    assert first == [long, long]
    assert second is None
