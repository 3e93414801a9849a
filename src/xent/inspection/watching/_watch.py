"""`xent.watch`: a training run, written down while it goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from xent.errors import OptionError
from xent.inspection.watching import _header
from xent.inspection.watching._place import Meeting, cut, cut_further_ranks, opened, rank_and_world, records_of
from xent.inspection.watching._recording import Recording
from xent.inspection.watching._row_tables import Names, table_of_logits
from xent.inspection.watching._schedule import KINDS, Schedule
from xent.inspection.watching._subjects import Subjects, subjects_of
from xent.inspection.watching._tensorboard import TensorBoard
from xent.inspection.watching._writer import RecordWriter

MOST_BYTES = 32 << 20


class About(TypedDict, total=False):
    """What else `watch` may be told.

    Attributes:
        name: of the run; the directory's by default.
        config: options of the run by name, to be shown.
        class_names: by class.
        decode: token ids → text.
        doctor: whether the doctor looks at the first steps.
        tensorboard: whether scalars go to TensorBoard too.
        max_bytes: that the records may have.
        resume_at: the step that the run goes on from: records that `out` has of it are kept up to there.
    """

    name: str
    config: Mapping[str, Any]
    class_names: Sequence[str]
    decode: Callable[[list[int]], str]
    doctor: bool
    tensorboard: bool
    max_bytes: int
    resume_at: int


def watch(
    model: nn.Module | Sequence[nn.Module] | None,
    optimizer: Optimizer | Sequence[Optimizer],
    out: str | os.PathLike[str] | None = None,
    every: int | None = None,
    **about: Unpack[About],
) -> Watching:
    """Write a training run down while it goes on: JSON lines in `out`/records.jsonl, each with the system at once.

        loss = Σ nll / count over all micro-batches of a step: the true mean, whatever their sizes

    Put it around the loop. What a line holds and which steps are recorded: docs/watch.md. `xent report` draws it.

    Args:
        model: the module, a list of modules, or None: then layers are called after the optimizer's groups.
        optimizer: one, or a list of them.
        out: a directory; where it has records already the next of out-2, out-3, … is taken, and that is said.
            None: runs/watch-1, runs/watch-2, …
        every: record every so many steps; None: as many as 1.3 % of the time pay for, 0.3 % of steps above 10 ms.
        **about: see `About`: name, config, class_names, decode, doctor, tensorboard, max_bytes, resume_at.

    Returns:
        A context manager that gives a `Watching`: `path`, `step`, `evaluation(…)` and `rows(…)` for what the loop
        measures itself.

    Gradient: unchanged, as are weights, random state, results and exceptions, bit by bit.

    Edge cases: accumulation, closures, GradScaler, several optimizers, `torch.compile`, DDP (each rank its own file)
        and threads (only that of the block is heard) are told apart in docs/watch.md. A full disk, or a fault of the
        recording, ends the recording with one warning. An exception is recorded and goes on.

    Cost: `benchmarks/watch_overhead.py`. In recorded steps copies of the parameters where layers are due, five times
        them where a ledger is (up to 4 Mi parameters); no tensor is kept after a step.

    Raises:
        DtypeError: something that is no model or no optimizer.
        OptionError: no optimizer, or an option outside its range.
        RunError: `out` can't be written.
        DependencyError: `tensorboard=True` without tensorboard.

    Differs from torch, which has no such function.

    Example:
        >>> import json, tempfile, torch, xent
        >>> model = torch.nn.Linear(2, 4, bias=False)
        >>> _ = model.weight.data.zero_()
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with xent.watch(model, optimizer, folder) as watching:
        ...         logits = model(torch.tensor([[1.0, 3.0], [0.0, 1.0]]))
        ...         torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0])).backward()
        ...         optimizer.step()
        ...     lines = watching.path.read_text().splitlines()
        >>> [json.loads(line)["kind"] for line in lines]
        ['run', 'step', 'layers', 'classes', 'calibration', 'worst_rows', 'ledger', 'end']
        >>> round(json.loads(lines[1])["loss"], 4)  # ln 4
        1.3863
    """
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise OptionError(f"every={every!r}", "it counts steps", "pass a number from 1 on, or leave it out")
    unknown = sorted(set(about) - set(About.__annotations__))
    if unknown:
        raise OptionError(f"{unknown[0]}=…", f"watch knows {', '.join(About.__annotations__)}", "leave it out")
    return Watching(subjects_of(model, optimizer), out, every, about)


class Watching:
    """A run that is being written down; a context manager.

    Attributes:
        path: the file of records, once the block is entered.
    """

    def __init__(
        self, subjects: Subjects, out: str | os.PathLike[str] | None, every: int | None, about: Mapping[str, Any]
    ) -> None:
        self._subjects, self._out, self._every, self._about = subjects, out, every, about
        self.path: Path | None = None

    def __enter__(self) -> Watching:
        about = self._about
        self._rank = rank_and_world()
        goes_on_at = about.get("resume_at", 0)
        earlier = records_of(self._out, self._rank[0]) if "resume_at" in about else None
        if earlier is None:
            self.path, file = opened(self._out, about.get("name", "watch"), *self._rank)
        else:
            self.path, file = earlier, cut(earlier, goes_on_at)
            meeting = Meeting(self._rank[1])  # on every rank: they meet by the number of the watch
            if not self._rank[0]:
                cut_further_ranks(earlier.parent, self._rank[1], goes_on_at)
                meeting.tell(earlier.parent)  # to ranks that the run did not have before
        self._resumed = earlier is not None
        self._began_at = time.perf_counter()
        writer = RecordWriter(self.path, file, about.get("max_bytes", MOST_BYTES))
        names = Names(about.get("class_names"), about.get("decode"))
        self._recording = Recording(self._subjects, writer, self._schedule(goes_on_at), names)
        self._recording.step = goes_on_at
        self._begin(self.path.parent)
        return self

    def _schedule(self, goes_on_at: int) -> Schedule:
        rank, world_size = self._rank
        kinds = KINDS if not rank else ("plain",)  # the rest is told once, by rank 0
        return Schedule(self._every, kinds, first_step=goes_on_at + 1, by_number=world_size > 1)

    def _begin(self, directory: Path) -> None:
        self._board = self._tensorboard(directory)
        self._recording.write("resume" if self._resumed else "run", step=self.step, **self._run(directory))
        self._recording.begin(examined=self._about.get("doctor", True))

    def _tensorboard(self, directory: Path) -> TensorBoard | None:
        if not self._about.get("tensorboard"):
            return None
        board = TensorBoard(directory, self._rank[0])
        self._recording.listeners.append(board)
        return board

    def _run(self, directory: Path) -> dict[str, Any]:
        about, class_names, (rank, world_size) = self._about, self._about.get("class_names"), self._rank
        return {
            "schema": _header.SCHEMA,
            "started": _header.started(),
            "name": about.get("name", directory.name),
            "command": list(sys.argv),
            "config": dict(about.get("config", {})),
            "machine": _header.machine(),
            "versions": _header.versions(),
            "layers": [layer.name for layer in self._subjects.layers],
            "num_parameters": self._subjects.num_parameters,
            "every": self._every,
            "class_names": None if class_names is None else [str(each) for each in class_names],
            "rank": rank,
            "world_size": world_size,
        }

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._recording.step

    def evaluation(self, split: str, **numbers: Any) -> None:
        """Write what was measured on other rows: `loss`, `count`, `accuracy`, `ruler`."""
        found = {"loss": None, "count": None, "accuracy": None, "ruler": None, **numbers}
        self._recording.write("evaluation", step=self.step, split=split, **found)
        self._recording.leave_out_time()

    def rows(
        self,
        split: str,
        logits: Tensor,
        target: Tensor,
        inputs: Tensor | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        """Write where the loss of other rows is: classes, calibration, worst rows of logits (N, C), target (N,).

        The worst rows show their picture where `inputs` are pictures, and their text of `texts`, one for each row.
        """
        for record in table_of_logits(logits.detach(), target).records(self._recording.names, inputs, texts):
            self._recording.write(step=self.step, split=split, **record)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(*_status(kind, error))

    def end(self, status: str = "done", error: str | None = None) -> None:
        """Write the last record, "done", "interrupted" or "failed", and listen no more."""
        recording = self._recording
        recording.end()
        seconds = time.perf_counter() - self._began_at
        recording.write("end", status=status, steps=self.step, seconds=seconds, error=error)
        recording.writer.close()
        if self._board is not None:
            self._board.close()


def _status(kind: type[BaseException] | None, error: BaseException | None) -> tuple[str, str | None]:
    if kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "done", None
    if issubclass(kind, KeyboardInterrupt):
        return "interrupted", None
    return "failed", f"{kind.__name__}: {error}"[:500]
