"""The shards of a command: scored, read back or left to another process, and merged to one result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from xent.errors import DataError
from xent.scoring._corpora import MOST_FAULTS
from xent.scoring._score_files import COLUMNS, Columns, ScoreFiles
from xent.scoring._sharing import Sharing
from xent.scoring._totals import Totals

SHOWN = 20_000  # tokens that a page shows


def _no_columns() -> Columns:
    return {name: [] for name in COLUMNS}


@dataclass
class Part:
    """The scores of one shard.

    Attributes:
        columns: of every token.
        totals: their sums.
        faults: numbers of the bad rows that were left out, and what is wrong with them.
    """

    columns: Columns = field(default_factory=_no_columns)
    totals: Totals = field(default_factory=Totals)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def skip(self, row: int, fault: str) -> None:
        """Leave a bad row out."""
        self.totals.skipped += 1
        self.faults.append((row, fault))


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
    shown: Columns = field(default_factory=_no_columns)
    resumed: int = 0
    faults: list[str] = field(default_factory=list)

    def show(self, columns: Columns) -> None:
        """Keep scores for a page, as many as it shows."""
        room = SHOWN - len(self.shown["nats"])
        for name in COLUMNS:
            self.shown[name] += columns[name][:room]


class ShardWork:
    """What this process does of the shards 0, 1, …, in their order."""

    def __init__(self, files: ScoreFiles | None, sharing: Sharing, told: Callable[[int], None]) -> None:
        self._files, self._sharing, self._told = files, sharing, told
        self._num_shards, self._resumed, self._num_shown = 0, 0, 0
        self._totals: dict[int, Totals] = {}
        self._shown: dict[int, Columns] = {}
        self._faults: list[tuple[int, str]] = []

    def do(self, number: int, score: Callable[[], Part]) -> None:
        """See to the next shard: score it if nobody has, and it is this process's."""
        self._num_shards = number + 1
        if not self._sharing.takes(number):
            return
        totals = self._files.done(number) if self._files else None
        if totals is None:
            totals = self._scored(number, score())
        else:
            self._resumed += 1
            if self._files and self._num_shown < SHOWN:
                self._show(number, self._files.read(number))
        self._totals[number] = totals
        self._told(self._sharing.count(totals.tokens))

    def finish(self, skipped: int, faults: list[str]) -> Scored | None:
        """The result of all processes, in the order of the corpus, on rank 0; the one file is written.

        Args:
            skipped: rows that the reading of the corpus left out, on every rank the same.
            faults: the first of them in words.

        Raises:
            DataError: processes did not see the same corpus.
        """
        mine = {
            "num_shards": self._num_shards,
            "totals": [[number, *asdict(totals).values()] for number, totals in self._totals.items()],
            "shown": list(self._shown.items()),
            "resumed": self._resumed,
            "faults": self._faults,
        }
        told = self._sharing.collected(mine)
        if told is None:
            return None
        totals = {number: Totals(*values) for done in told for number, *values in done["totals"]}
        self._check_whole(told, totals)
        if self._files:
            self._files.join(self._num_shards)
        scored = Scored(Totals.sum([totals[number] for number in range(self._num_shards)]))
        scored.totals.skipped += skipped
        scored.resumed = sum(done["resumed"] for done in told)
        for _, columns in sorted((shown for done in told for shown in done["shown"]), key=lambda shown: shown[0]):
            scored.show(columns)
        of_shards = sorted((row, fault) for done in told for row, fault in done["faults"])
        scored.faults = [*faults, *(f"row {row}: {fault}" for row, fault in of_shards)][:MOST_FAULTS]
        return scored

    def _scored(self, number: int, part: Part) -> Totals:
        if self._files:
            self._files.write(number, part.columns, part.totals)
        self._faults += part.faults[: MOST_FAULTS - len(self._faults)]
        self._show(number, part.columns)
        return part.totals

    def _show(self, number: int, columns: Columns) -> None:
        """Keep scores for a page; every process as many as the page shows, since they may all be its."""
        room = SHOWN - self._num_shown
        if room > 0:
            self._shown[number] = {name: columns[name][:room] for name in COLUMNS}
            self._num_shown += len(self._shown[number]["nats"])

    def _check_whole(self, told: list[dict[str, Any]], totals: dict[int, Totals]) -> None:
        counts = sorted({done["num_shards"] for done in told})
        if len(counts) > 1 or len(totals) != counts[0]:
            raise DataError(
                f"the ranks read {' and '.join(map(str, counts))} shards and scored {len(totals)}",
                "all of them read the same texts",
                "see whether the file changed, or is another on another machine",
            )
        lacking = [number for number in totals if self._files and self._files.done(number) is None]
        if self._files and lacking:
            raise DataError(
                f"{self._files.parts} lacks {len(lacking)} of {len(totals)} parts that were written",
                "all ranks write into one folder",
                "pass an --out on a file system that all machines share",
            )
