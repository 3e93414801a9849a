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
_TIMES = (
    *("median_ms", "q1_ms", "q3_ms", "fastest_ms", "rounds", "calls_per_round", "ratio", "beside"),
    *("note", "single_ms", "at_least_ms"),
)
_AGREE_WITHIN = 0.01  # of the baseline's loss; bfloat16 losses have two to three digits


@dataclass(frozen=True)
class Settings:
    """How a question is run.

    Attributes:
        quick: small cases, few rounds.
        only: the name of a case, or a pattern or part of several; empty for all.
        without: contestants to leave out.
        only_with: the contestants to measure, beside `Question.beside`; the others' records stay. Empty for all.
        pace: rounds and seconds.
        limit: seconds that one call of a contestant may take.
        memory: whether to measure memory, in a process for each contestant.
        time: whether to measure times; else memory and errors of gradients alone, and times of the file stay.
        out: directory of the results.
    """

    quick: bool = False
    only: str = ""
    without: tuple[str, ...] = ()
    only_with: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)
    limit: float = 60.0
    memory: bool = True
    time: bool = True
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
        self._keeps = bool(self.settings.only) or self.joins
        self.results = results.begin(self.path, fresh, keep=self._keeps)

    @property
    def joins(self) -> bool:
        """Whether what is measured joins records of the same contest in the file."""
        return bool(self.settings.only_with) or not self.settings.time

    def hold_all(self, watcher: Watcher) -> None:
        """Hold the contests one by one; each is in the file before the next begins."""
        for index, case in enumerate(self.cases):
            contest = _Contest(self, case, index, watcher).hold()
            self.read_again()
            results.add(self.results, contest, self._order)
            results.save(self.path, self.results)
            self.held.append(contest)
            watcher.done(contest)

    def read_again(self) -> None:
        """Take in what another run has put into the file meanwhile: one that measures memory, beside this one."""
        if self._keeps and self.path.is_file():
            self.results["contests"] = results.load(self.path)["contests"]

    def _asked_for(self) -> list[Case]:
        cases, only = list(self.question.cases(self.settings.quick)), self.settings.only
        named = [case for case in cases if case.name == only]
        found = named or [case for case in cases if not only or fnmatch(case.name, only) or only in case.name]
        if not found:
            raise OptionError(
                f"--only {only!r} is in no case", f"the cases are: {', '.join(self._order)}", "pass a part of a name"
            )
        return found

    def _check_without(self) -> None:
        unknown = {*self.settings.without, *self.settings.only_with} - set(self.question.labels)
        if unknown or self.question.baseline in self.settings.without:
            option = "--with" if unknown & set(self.settings.only_with) else "--without"
            raise OptionError(
                f"{option} {', '.join(sorted(unknown) or [self.question.baseline])}",
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
        question, case, settings = self.run.question, self.case, self.run.settings
        earlier = self._earlier() if self.run.joins else {}
        self._before: dict[str, dict[str, Any]] = earlier.get("contestants", {})
        records = {name: self._begun(name) for name in self._taking()}
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        if case.memory and settings.memory:
            self._measure_memory(records)
        torch.compiler.reset()  # no guards or dynamic shapes from the case before
        self._doing("inputs")
        field = question.field(case)
        with grad_mode(case.backward):
            entries = self._ready(field, records)
            timings = measure(entries, settings.pace, shown=self._doing) if settings.time and entries else {}
        self._enter(records, timings)
        if self.run.joins:
            self.run.read_again()
            earlier = self._earlier()
            self._before = earlier.get("contestants", {})
            records = self._joined(records)
        timed = {"measured_at": results.now(), "load_before": load}
        if not settings.time:  # the times of the file, and when they were taken, stay
            timed = {name: earlier.get(name, value) for name, value in timed.items()}
        return {
            **{name: getattr(case, name) for name in ("name", "group", "title", "dtype", "shape", "backward")},
            **{name: getattr(case, name) for name in ("num_logits", "logits_bytes", "gradient_bytes")},
            **timed,
            "backend": field.backend(),
            "contestants": records,
            "needs": [need.verdict(records) for need in case.needs],
        }

    def _wants_error(self, name: str) -> bool:
        """A run that times some leaves the errors of gradients to one with --no-time: its minutes are scarce."""
        settings, known = self.run.settings, self._before.get(name, {})
        return "gradient_error" not in known and not (settings.time and settings.only_with)

    def _earlier(self) -> dict[str, Any]:
        """This contest as the file has it."""
        found = [contest for contest in self.run.results["contests"] if contest["name"] == self.case.name]
        return found[0] if found else {}

    def _taking(self) -> list[str]:
        """Who takes part."""
        names, settings = self.run.question.contestants(self.case), self.run.settings
        if not settings.only_with:
            return names
        beside = [name for name in self.run.question.beside if settings.time and self._is_short(name)]
        return [name for name in names if name in settings.only_with or name in beside]

    def _is_short(self, name: str) -> bool:
        record = self._before.get(name, {})
        return "median_ms" in record or "note" not in record

    def _begun(self, name: str) -> dict[str, Any]:
        """A new record: empty, or with why there will be none."""
        absent = self.run.results["absent"]
        return {"note": absent[name]} if name in absent else {}

    def _joined(self, records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """New records beside those of the file, in the order of the contestants.

        Who was there only to be compared with keeps the times that it has: those who were measured with it are
        compared with these.
        """
        joined = {}
        for name in self.run.question.contestants(self.case):
            before, new = self._before.get(name, {}), records.get(name)
            asked = not self.run.settings.only_with or name in self.run.settings.only_with
            if new is None or ("median_ms" in before and not asked):
                joined[name] = self._beside_before(name) or {"note": "not measured"}
            else:
                untimed = () if "single_ms" in before else ("note", "at_least_ms")  # a note on a time is still true
                dropped = _TIMES if self.run.settings.time else untimed
                timed = "median_ms" in before and not self.run.settings.time
                kept = {key: value for key, value in before.items() if key not in dropped}
                joined[name] = {**kept, **({k: v for k, v in new.items() if k not in _TIMES} if timed else new)}
        return joined

    def _beside_before(self, name: str) -> dict[str, Any]:
        """A record that stays, with whom it was measured beside: of a run of all, everyone."""
        record = self._before.get(name, {})
        if "median_ms" not in record or "beside" in record:
            return record
        others = [other for other in self.run.question.beside if other != name]
        medians = {other: self._before[other]["median_ms"] for other in others if "median_ms" in self._before[other]}
        return {**record, "beside": medians}

    def _enter(self, records: dict[str, dict[str, Any]], timings: dict[str, Timing]) -> None:
        """Times, and ratios to the baseline: by way of xent where only that was measured beside both."""
        baseline, partial = self.run.question.baseline, self.run.joins
        ratios = ratios_to(baseline, timings) if baseline in timings else self._ratios_through_xent(timings)
        for name, timing in timings.items():
            records[name].update(timing.to_dict())
            if name in ratios:
                records[name]["ratio"] = float(f"{ratios[name]:.4g}")
            if partial:
                others = [other for other in self.run.question.beside if other in timings and other != name]
                records[name]["beside"] = {other: timings[other].to_dict()["median_ms"] for other in others}
        before = self._before.get(baseline, self._before.get("xent", {}))
        _check_losses(records, records.get(baseline, before).get("loss"))

    def _ratios_through_xent(self, timings: dict[str, Timing]) -> dict[str, float]:
        ratio = self._before.get("xent", {}).get("ratio")
        if ratio is None or "xent" not in timings:
            return {}
        return {name: ratio * timings["xent"].median / timing.median for name, timing in timings.items()}

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
            known = ("note", "extra_bytes", "at_least_ms")
            record.update({key: found[key] for key in known if found.get(key) is not None})
            if found.get("extra_bytes") is not None:
                record["beyond_gradients_bytes"] = max(0, found["extra_bytes"] - self.case.gradient_bytes)
            if found.get("seconds", 0) > settings.limit:
                _over_limit(record, found["seconds"], settings.limit)

    def _ready(self, field: Field, records: dict[str, dict[str, Any]]) -> dict[str, Entry]:
        """Entries that are warm; whoever fails or takes too long gets a note instead."""
        entries: dict[str, Entry] = {}
        for name, record in records.items():
            if "note" in record or not (self.run.settings.time or self._wants_error(name)):
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
                if entry.gradients and self._wants_error(name):
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


def _check_losses(records: dict[str, dict[str, Any]], expected: float | None) -> None:
    for record in records.values():
        loss = record.get("loss")
        if expected is not None and loss is not None and not abs(loss - expected) <= _AGREE_WITHIN * abs(expected):
            record["note"] = f"computes another value: {loss:.6g}, and the baseline {expected:.6g}"
