"""The records of a run, read while they may still be written: `records.jsonl`, and those of other ranks beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xent.errors import RunError
from xent.report.run_page._values import as_dict, as_finite, as_list, as_number, as_records, as_whole

FILE = "records.jsonl"
PARTS = ("data", "forward", "loss", "backward", "step", "other")  # of a step's time, in the order of their happening


class Step(NamedTuple):
    """One step, without what only its line in the file holds."""

    step: int
    loss: float | None
    sum_nll: float | None
    denominator: float | None  # Σ count
    mean_of_means: float | None  # of its micro-batches, None where there is one
    pieces: int  # micro-batches
    accuracy: float | None
    learning_rates: tuple[float | None, ...]
    rows_per_second: float | None
    seconds: tuple[float | None, ...]  # of PARTS
    optimizer: int | None  # its number, where there are several


@dataclass
class Records:
    """What one file holds, as far as it was read.

    Attributes:
        path: the file.
        header: its first record, of kind `run`.
        steps: in the order of the file.
        of_steps: the ruler of the newest step that had one.
        of_evaluation: that of the newest evaluation that had one.
        kinds: the records of every other kind.
        broken: lines that are no record; a last line without its end is `cut`.
        cut: whether the file ends within a line.
    """

    path: Path
    header: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    of_steps: dict[str, Any] = field(default_factory=dict)
    of_evaluation: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    broken: int = 0
    cut: bool = False
    _read: int = 0

    @property
    def ruler(self) -> dict[str, Any]:
        """The ruler of the run: a step knows the labels of the steps before it, an evaluation those of the data."""
        steps, evaluation = self.of_steps, self.of_evaluation
        if not steps or evaluation.get("num_classes") != steps.get("num_classes") or evaluation.get("prior") is None:
            return steps or evaluation
        return {**steps, "prior": evaluation["prior"]}

    def read_on(self) -> bool:
        """Read what was written since; return whether there was anything.

        Raises:
            RunError: the file can't be read.
        """
        before = self._read
        try:
            if self.path.stat().st_size < self._read:  # somebody began the file anew
                self.__init__(self.path)
            with self.path.open("rb") as file:
                file.seek(self._read)
                self.cut = False
                for line in file:
                    self._take(line)
        except OSError as error:
            raise RunError(
                f"{self.path} can't be read ({error.strerror})", "a report reads it", "check its rights"
            ) from error
        return self._read != before

    def _take(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            self.cut = True
            return
        self._read += len(line)
        if not line.strip():
            return
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            self.broken += 1
        elif record["kind"] == "run":
            self.header = self.header or record
        elif record["kind"] == "step":
            self._take_step(record)
        else:
            self.kinds[record["kind"]].append(record)
            if record["kind"] == "evaluation":
                self.of_evaluation = as_dict(record.get("ruler")) or self.of_evaluation

    def _take_step(self, record: dict[str, Any]) -> None:
        number = as_whole(record.get("step"))
        if number is None:
            self.broken += 1
            return
        ruler = as_dict(record.get("ruler"))
        self.of_steps = ruler if any(value is not None for value in ruler.values()) else self.of_steps
        means = list(_means(record.get("micro_batches")))
        seconds = as_dict(record.get("seconds"))
        self.steps.append(
            Step(
                number,
                as_number(record.get("loss")),
                as_number(record.get("sum_nll")),
                as_finite(record.get("count")),
                sum(means) / len(means) if means else None,
                max(len(means), 1),
                as_finite(record.get("accuracy")),
                tuple(as_finite(rate) for rate in as_list(record.get("learning_rates"))[:8]),
                as_finite(record.get("rows_per_second")),
                tuple(as_finite(seconds.get(part)) for part in PARTS),
                as_whole(record.get("optimizer")),
            )
        )


def _means(micro_batches: Any) -> Iterator[float]:
    for one in as_records(micro_batches):
        total, count = as_number(one.get("sum_nll")), as_finite(one.get("count"))
        if total is not None and count:
            yield total / count


@dataclass
class RunRecords:
    """The records of a run directory: of rank 0, and of the others.

    Attributes:
        directory: of the run.
        main: the records of rank 0, or of the only process.
        others: those of further ranks.
    """

    directory: Path
    main: Records
    others: list[Records] = field(default_factory=list)

    def read_on(self) -> bool:
        """Read what was written since; return whether there was anything."""
        known = {records.path for records in self.others}
        new = sorted(path for path in self.directory.glob("records.rank*.jsonl") if path not in known)
        self.others += [Records(path) for path in new]
        grown = [records.read_on() for records in (self.main, *self.others)]
        return any(grown)

    def last_change(self) -> float:
        """When something was last written, in seconds since 1970."""
        return self.main.path.stat().st_mtime


def records_of(directory: Path) -> RunRecords:
    """The records of a run directory.

    Raises:
        RunError: there is no such directory, or it holds no records.
    """
    if directory.is_file() and directory.name == FILE:
        directory = directory.parent
    if not directory.is_dir():
        raise RunError(f"{directory} is no directory", "a report is made of a run's directory", "pass such as runs/x")
    if not (directory / FILE).is_file():
        raise RunError(
            f"{directory} holds no {FILE}",
            "a report is made of what xent watch and xent train write down",
            f"pass the directory of a watched run, or watch one: xent watch --out {directory} SCRIPT",
        )
    run = RunRecords(directory, Records(directory / FILE))
    run.read_on()
    return run


def newest_run(root: Path) -> Path:
    """The run under a directory whose records changed last.

    Raises:
        RunError: no run there has records.
    """
    found = [path for path in root.glob(f"*/{FILE}") if path.is_file()]
    if not found:
        raise RunError(
            f"no run under {root}/ has a {FILE}",
            "without an argument the newest run there is reported",
            "pass the directory of a run, or make one: xent train digits",
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent
