"""A run directory: what a recipe was asked, what it measured, what it learned, and where it can go on.

    config.json          options, versions, data; written once (and when a resume sets another number of epochs)
    metrics.jsonl        one line per epoch, without clock times: two equal runs write equal bytes
    model.safetensors    the weights after the last whole epoch
    checkpoint           everything needed to go on; checkpoint.previous is the one before it
    checkpoint.parts-…   the tensors of a checkpoint that several ranks wrote
    others               what the recipe needs besides, such as a tokenizer; written once, before config.json

A new run directory appears whole, by one rename. After that each epoch appends its line, then replaces the model, then
the checkpoint: a stop anywhere leaves at worst a line and a model that the checkpoint does not cover yet, and opening
the run again cuts the line off.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import reprlib
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from xent.errors import OptionError, RunError
from xent.recipes._checkpoint import (
    Checkpoint,
    newest_checkpoint,
    remove_unused_parts,
    sync_directory,
    write_atomically,
)

RUNS = Path("runs")
PARTS = ("train", "validation")  # of the data, each with its metrics in every line of metrics.jsonl
FORMAT = 1  # of a run directory; "xent_run" in its config.json
CONFIG, METRICS, MODEL, CHECKPOINT, PREVIOUS = (
    "config.json",
    "metrics.jsonl",
    "model.safetensors",
    "checkpoint",
    "checkpoint.previous",
)


class RunDirectory:
    """One run on disk, locked for the process that writes it.

    Attributes:
        path: the directory, as the user named it.
        config: the content of config.json.
    """

    def __init__(self, path: Path, config: dict[str, Any], lock: int) -> None:
        self.path, self.config, self._lock = path, config, lock

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return f"xent train {self.config['recipe']} --resume {shlex.quote(str(self.path))}"

    @classmethod
    def create(
        cls, path: Path | None, config: dict[str, Any], first: Checkpoint, others: dict[str, bytes] | None = None
    ) -> RunDirectory:
        """Make a new run directory: at `path`, or the first free runs/RECIPE-1, runs/RECIPE-2, ….

        Args:
            path: where; None for the first free name.
            config: content of config.json.
            first: the checkpoint before the first epoch.
            others: content of the recipe's own files by name.

        Raises:
            OptionError: `path` exists and is no empty directory.
            RunError: it can't be written.
        """
        refuse_existing(path)
        place = path or next(_free_names(config["recipe"]))
        with _saying(
            f"{place} can't be written", "nothing was left behind; make room, allow writing, or pass another --out"
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            beginning = _beginning(config, first, others or {})
            if place.is_dir():
                _write_beginning(place, beginning)
                return cls(place, config, _locked(place))
            return _appear(cls, place, config, beginning)

    @classmethod
    def open(cls, path: Path, recipe: str) -> RunDirectory:
        """Open a run of `recipe` to go on with it.

        Raises:
            OptionError: `path` is no directory, no run of xent's, or a run of another recipe.
            RunError: its config.json is damaged, or another training is writing the run.
        """
        config = _read_config(path)
        if config["recipe"] != recipe:
            raise OptionError(
                f"{path} is a run of the recipe {config['recipe']}",
                f"{recipe} goes on with its own runs only",
                f"xent train {config['recipe']} --resume {path}",
            )
        with _saying(f"{path} can't be locked", "check its rights"):
            return cls(path, config, _locked(path))

    @classmethod
    def reading(cls, path: Path, recipe: str) -> RunDirectory:
        """A run of `recipe` to look at: nothing is locked, and nothing may be written.

        Raises:
            OptionError: `path` is no directory, no run of xent's, or a run of another recipe.
            RunError: its config.json is damaged.
        """
        config = _read_config(path, "run")
        if config["recipe"] != recipe:
            raise OptionError(f"{path} is a run of {config['recipe']}", f"a run of {recipe} is read here", "pass one")
        return cls(path, config, lock=-1)

    def model(self) -> dict[str, Tensor]:
        """The weights after the last whole epoch.

        Raises:
            RunError: there are none yet, or the file is damaged.
        """
        try:
            return safetensors.torch.load((self.path / MODEL).read_bytes())
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} holds no {MODEL}", "a run has one after its first epoch", "train it"
            ) from error
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                f"{self.path / MODEL} is damaged ({error})",
                "it must be as it was written",
                f"{self.resume_command} writes it again",
            ) from error

    def check_data(self, source: str, sha256: str) -> None:
        """Check that data is what the run began with.

        Args:
            source: where it came from, in words.
            sha256: hash of what was read.

        Raises:
            RunError: it is not.
        """
        if sha256 != self.config["data"].get("sha256"):
            raise RunError(
                f"{source} is not the data that {self.path} began with (its SHA-256 differs)",
                "a run keeps its data",
                "pass --data with the place where that data is now, or start a new run",
            )

    def read(self, name: str) -> bytes:
        """The content of one of the recipe's own files.

        Raises:
            RunError: it can't be read.
        """
        with _saying(f"{self.path / name} can't be read", "restore it, or start a new run"):
            return (self.path / name).read_bytes()

    def newest_checkpoint(self, measures: tuple[str, ...]) -> Checkpoint:
        """The checkpoint to go on from; metrics.jsonl is cut to what it covers, lines with `measures` of each part.

        Raises:
            RunError: the checkpoint or metrics.jsonl is missing or damaged.
        """
        checkpoint = newest_checkpoint(self.path / CHECKPOINT, self.path / PREVIOUS)
        metrics = self.path / METRICS
        with _saying(f"{metrics} can't be cut to epoch {checkpoint.epoch}", "check the file and its rights"):
            self._check_metrics(metrics.read_bytes()[: checkpoint.metrics_bytes], checkpoint, measures)
            if metrics.stat().st_size > checkpoint.metrics_bytes:
                os.truncate(metrics, checkpoint.metrics_bytes)
        return checkpoint

    def last_metrics(self) -> dict[str, Any]:
        """The last line of metrics.jsonl."""
        return json.loads((self.path / METRICS).read_bytes().splitlines()[-1])

    def append_metrics(self, record: dict[str, Any]) -> int:
        """Append one line to metrics.jsonl, whole or not at all; return the file's new length.

        Raises:
            RunError: it can't be written.
        """
        metrics = self.path / METRICS
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        # Unbuffered: a buffer would try once more, on closing, to write what did not fit.
        with self._saying_how_to_resume(METRICS), metrics.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(metrics, before)
                raise
            return file.tell()

    def save(self, checkpoint: Checkpoint, model: dict[str, Tensor] | Iterator[bytes]) -> None:
        """Replace model.safetensors and the checkpoint; the checkpoint so far becomes checkpoint.previous.

        Args:
            checkpoint: where the run stands; its parts, if it has any, are written.
            model: the weights, or the content of their file.

        Raises:
            RunError: one can't be written; the earlier checkpoint is intact.
        """
        self.save_model(model)
        with self._saying_how_to_resume(CHECKPOINT):
            write_atomically(self.path / CHECKPOINT, checkpoint.to_bytes(), keep_as=self.path / PREVIOUS)
            remove_unused_parts(self.path, self.path / CHECKPOINT, self.path / PREVIOUS)

    def save_model(self, model: dict[str, Tensor] | Iterator[bytes]) -> None:
        """Replace model.safetensors.

        Raises:
            RunError: it can't be written.
        """
        with self._saying_how_to_resume(MODEL):
            content = safetensors.torch.save(model) if isinstance(model, dict) else model
            write_atomically(self.path / MODEL, content)

    def save_config(self, config: dict[str, Any]) -> None:
        """Replace config.json.

        Raises:
            RunError: it can't be written.
        """
        with self._saying_how_to_resume(CONFIG):
            write_atomically(self.path / CONFIG, _as_json(config))
        self.config = config

    def close(self) -> None:
        """Let others write the run."""
        os.close(self._lock)

    def _check_metrics(self, covered: bytes, checkpoint: Checkpoint, measures: tuple[str, ...]) -> None:
        try:
            epochs = [_epoch_of(json.loads(line), measures) for line in covered.splitlines()]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            epochs = None
        if len(covered) != checkpoint.metrics_bytes or epochs != list(range(1, checkpoint.epoch + 1)):
            raise RunError(
                f"{self.path / METRICS} is damaged",
                f"it must hold the lines of epochs 1 to {checkpoint.epoch} as they were written",
                "restore it, or start a new run",
            )

    @contextmanager
    def _saying_how_to_resume(self, name: str) -> Iterator[None]:
        with _saying(f"{self.path / name} can't be written", f"make room or allow writing, then {self.resume_command}"):
            yield


def _epoch_of(record: dict[str, Any], measures: tuple[str, ...]) -> int:
    """The epoch of a line of metrics.jsonl that has all that is shown of it, in finite numbers."""
    for name in (*measures, *record["train"]):
        if not all(math.isfinite(record[part][name]) for part in PARTS):
            raise ValueError(name)
    return record["epoch"]


def refuse_existing(path: Path | None) -> None:
    """Refuse a place for a new run where something is already.

    Raises:
        OptionError: `path` exists and is no empty directory.
        RunError: it can't be read.
    """
    if path is None or not path.exists():
        return
    with _saying(f"{path} can't be read", "check its rights or pass another --out"):
        if path.is_dir() and not any(path.iterdir()):
            return
    raise OptionError(
        f"{path} already exists" + (" and is not empty" if path.is_dir() else ""),
        "a run never overwrites another",
        f"pass another --out, or go on with --resume {path}" if (path / CONFIG).exists() else "pass another --out",
    )


def _free_names(recipe: str) -> Iterator[Path]:
    return (place for number in count(1) if not (place := RUNS / f"{recipe}-{number}").exists())


def _appear(cls: type[RunDirectory], place: Path, config: dict[str, Any], beginning: dict[str, bytes]) -> RunDirectory:
    staging = place.parent / f".{place.name}.{os.getpid()}.tmp"
    staging.mkdir()
    try:
        _write_beginning(staging, beginning)
        lock = _locked(staging)  # holds the directory itself, whatever its name
        staging.rename(place)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_directory(place.parent)
    return cls(place, config, lock)


def _beginning(config: dict[str, Any], first: Checkpoint, others: dict[str, bytes]) -> dict[str, bytes]:
    # config.json last: its presence makes the directory a run.
    return {**others, CHECKPOINT: first.to_bytes(), METRICS: b"", CONFIG: _as_json(config)}


def _write_beginning(place: Path, beginning: dict[str, bytes]) -> None:
    try:
        for name, content in beginning.items():
            write_atomically(place / name, content)
    except BaseException:
        for name in beginning:
            (place / name).unlink(missing_ok=True)
        raise


def _locked(place: Path) -> int:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when the process ends
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunError(
            f"{place} is being written already", "one training at a time writes a run", "wait for it, or stop it"
        ) from error
    return descriptor


def recipe_of(path: Path) -> str:
    """The recipe of a run.

    Raises:
        OptionError: `path` is no directory, or no run of xent's.
        RunError: its config.json is damaged.
    """
    return _read_config(path, "run")["recipe"]


def _read_config(path: Path, named: str = "resume") -> dict[str, Any]:
    if not path.is_dir() or not (path / CONFIG).exists():
        lack = f"holds no {CONFIG}" if path.is_dir() else "is no directory" if path.exists() else "does not exist"
        raise OptionError(f"{named} is {path}, which {lack}", "it must be a run directory of xent's", "see ls runs")
    with _saying(f"{path / CONFIG} can't be read", "check its rights"):
        content = (path / CONFIG).read_bytes()
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path / CONFIG, str(error)) from error
    if not isinstance(config, dict) or not {"xent_run", "recipe", "options", "data"} <= config.keys():
        raise OptionError(
            f"{path / CONFIG} was not written by xent train", "only its runs can be resumed", "see ls runs"
        )
    if not isinstance(config["recipe"], str):
        raise _damaged(path / CONFIG, f"recipe is {reprlib.repr(config['recipe'])}")
    if config["xent_run"] != FORMAT:
        raise RunError(
            f"{path} is a run of format {reprlib.repr(config['xent_run'])}",
            f"this version of xent reads format {FORMAT}",
            "go on with the version that wrote it",
        )
    for name in ("options", "data", "versions"):
        if not isinstance(config.get(name), dict):
            raise _damaged(path / CONFIG, f"{name} is {reprlib.repr(config.get(name))}")
    return config


def _damaged(config: Path, why: str) -> RunError:
    return RunError(f"{config} is damaged ({why})", "it must be JSON as it was written", "restore it, or start anew")


def _as_json(config: dict[str, Any]) -> bytes:
    # A path that is no UTF-8 has surrogates, and json.loads lets them pass.
    return json.dumps(config, indent=2, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"


@contextmanager
def _saying(got: str, do: str) -> Iterator[None]:
    """Turn the system's refusals into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{got} ({error.strerror or error})", "a run needs its files", do) from error
