"""A run: one contest after the other, the results file written after each."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

import torch

from xent.bench import machine, memory, results
from xent.bench.contest import Entry, Pace, Timing, grad_mode, measure, ratios_to, warm_up
from xent.bench.questions import Case, Field, Question
from xent.errors import OptionError

PACE = {"cross-entropy": Pace(), "linear": Pace(min_rounds=3, max_rounds=25, seconds=60.0)}
QUICK_PACE = Pace(min_rounds=3, max_rounds=5, seconds=0.5)
_AGREE_WITHIN = 0.01  # of the baseline's loss; bfloat16 losses have two to three digits


@dataclass(frozen=True)
class Settings:
    """How a question is run.

    Attributes:
        quick: small cases, few rounds.
        only: pattern or part of the names of the cases; empty for all.
        without: contestants to leave out.
        pace: rounds and seconds.
        limit: seconds that one call of a contestant may take.
        memory: whether to measure memory, in a process for each contestant.
        out: directory of the results.
    """

    quick: bool = False
    only: str = ""
    without: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)
    limit: float = 60.0
    memory: bool = True
    out: Path = results.DIRECTORY


class Watcher(Protocol):
    """Who is told what happens."""

    def doing(self, case: Case, index: int, total: int, what: str, share: float) -> None:
        """`what` is being done, `share` of this contest is over."""
        ...

    def done(self, contest: dict[str, Any]) -> None:
        """A contest is over."""
        ...


@dataclass
class Run:
    """One question, asked on this machine.

    Attributes:
        question: what is asked.
        settings: how.
        path: the results file.
        cases: those that are asked for.
        results: what is known so far: the content of the file.
        held: the contests of this run that are over.
    """

    question: Question
    settings: Settings

    def __post_init__(self) -> None:
        self._check_without()
        self._order = [case.name for case in self.question.cases(self.settings.quick)]
        self.cases = self._asked_for()
        here = machine.describe()
        self.path = results.path_for(self.settings.out, self.question.name, here, self.settings.quick)
        self.held: list[dict[str, Any]] = []
        fresh = {
            "question": self.question.name,
            "title": self.question.title,
            "baseline": self.question.baseline,
            "labels": self.question.labels,
            "error_text": self.question.error_text,
            "memory_method": memory.METHOD,
            "machine": here,
            "absent": self._absent(),
        }
        self.results = results.begin(self.path, fresh, keep=bool(self.settings.only))

    def hold_all(self, watcher: Watcher) -> None:
        """Hold the contests one by one; each is in the file before the next begins."""
        for index, case in enumerate(self.cases):
            contest = _Contest(self, case, index, watcher).hold()
            results.add(self.results, contest, self._order)
            results.save(self.path, self.results)
            self.held.append(contest)
            watcher.done(contest)

    def _asked_for(self) -> list[Case]:
        cases, only = list(self.question.cases(self.settings.quick)), self.settings.only
        found = [case for case in cases if not only or fnmatch(case.name, only) or only in case.name]
        if not found:
            raise OptionError(
                f"--only {only!r} is in no case", f"the cases are: {', '.join(self._order)}", "pass a part of a name"
            )
        return found

    def _check_without(self) -> None:
        unknown = set(self.settings.without) - set(self.question.labels)
        if unknown or self.question.baseline in self.settings.without:
            raise OptionError(
                f"--without {', '.join(sorted(unknown) or [self.question.baseline])}",
                f"the contestants are {', '.join(self.question.labels)}, and {self.question.baseline} is the baseline",
                "pass one of the others",
            )

    def _absent(self) -> dict[str, str]:
        return {**self.question.absent(), **dict.fromkeys(self.settings.without, "left out by --without")}


@dataclass
class _Contest:
    run: Run
    case: Case
    index: int
    watcher: Watcher

    def hold(self) -> dict[str, Any]:
        question, case = self.run.question, self.case
        absent = self.run.results["absent"]
        records: dict[str, dict[str, Any]] = {
            name: {"note": absent[name]} if name in absent else {} for name in question.contestants(case)
        }
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        if case.memory and self.run.settings.memory:
            self._measure_memory(records)
        torch.compiler.reset()  # no guards or dynamic shapes from the case before
        self._doing("inputs")
        field = question.field(case)
        with grad_mode(case.backward):
            entries = self._ready(field, records)
            timings = measure(entries, self.run.settings.pace, shown=self._doing)
        _enter(records, timings, question.baseline)
        return {
            **{name: getattr(case, name) for name in ("name", "group", "title", "dtype", "shape", "backward")},
            **{name: getattr(case, name) for name in ("num_logits", "logits_bytes", "gradient_bytes")},
            "measured_at": results.now(),
            "load_before": load,
            "backend": field.backend(),
            "contestants": records,
            "needs": [need.verdict(records) for need in case.needs],
        }

    def _doing(self, what: str, share: float = 0.0) -> None:
        what = self.run.question.labels.get(what, what)
        self.watcher.doing(self.case, self.index, len(self.run.cases), what, share)

    def _measure_memory(self, records: dict[str, dict[str, Any]]) -> None:
        settings = self.run.settings
        probe = memory.Probe(
            self.run.question.name, self.case.name, "", torch.get_num_threads(), settings.quick, settings.limit
        )
        for name, record in records.items():
            if "note" in record:
                continue
            self._doing(f"memory of {self.run.question.labels[name]}")
            found = replace(probe, contestant=name).run()
            record.update({key: found[key] for key in ("note", "extra_bytes") if found.get(key) is not None})
            if found.get("extra_bytes") is not None:
                record["beyond_gradients_bytes"] = max(0, found["extra_bytes"] - self.case.gradient_bytes)
            if found.get("seconds", 0) > settings.limit:
                _over_limit(record, found["seconds"], settings.limit)

    def _ready(self, field: Field, records: dict[str, dict[str, Any]]) -> dict[str, Entry]:
        """Entries that are warm; whoever fails or takes too long gets a note instead."""
        entries: dict[str, Entry] = {}
        for name, record in records.items():
            if "note" in record:
                continue
            self._doing(f"warm-up of {self.run.question.labels[name]}")
            try:
                entry = field.entry(name)
                result, seconds = warm_up(entry)
                if seconds > self.run.settings.limit:
                    _over_limit(record, seconds, self.run.settings.limit)
                    continue
                if entry.loss:
                    record["loss"] = entry.loss(result)
                if entry.gradients:
                    record["gradient_error"] = float(f"{field.gradient_error(entry.gradients(result)):.3g}")
                del result
                entry.reset()
                entries[name] = entry
            except Exception as error:  # a peer may raise anything; the others go on
                record["note"] = f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        return entries


def _over_limit(record: dict[str, Any], seconds: float, limit: float) -> None:
    record["single_ms"] = round(1e3 * seconds, 1)
    record["note"] = f"over the time limit of {limit:g} s: its one call took {seconds:.0f} s"


def _enter(records: dict[str, dict[str, Any]], timings: dict[str, Timing], baseline: str) -> None:
    ratios = ratios_to(baseline, timings) if baseline in timings else {}
    for name, timing in timings.items():
        records[name].update(timing.to_dict())
        if name in ratios:
            records[name]["ratio"] = float(f"{ratios[name]:.4g}")
    expected = records[baseline].get("loss")
    for record in records.values():
        loss = record.get("loss")
        if expected is not None and loss is not None and not abs(loss - expected) <= _AGREE_WITHIN * abs(expected):
            record["note"] = f"computes another value: {loss:.6g}, and the baseline {expected:.6g}"
