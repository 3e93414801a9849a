"""One doctor at work: gives every event to the rules, keeps what they find, counts what they could not judge."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import CodeType, FrameType
from typing import Any

import torch
from torch.nn import Module

from xent.inspection.checks._rule import Rule, Watcher
from xent.inspection.examination._batch_sizes import BatchSizes
from xent.inspection.examination._call_site import CallSite, key_of, site_of
from xent.inspection.examination._events import (
    BackwardCall,
    Event,
    GradientEvent,
    LossCall,
    OptimizerStep,
    Reduction,
    Write,
)
from xent.inspection.examination._finding import Finding, Found, NotChecked, Unchecked
from xent.inspection.examination._report import Report
from xent.inspection.examination._run import Run

_ORDER = {"error": 0, "warning": 1, "info": 2}
_MOST_PLACES = 10_000  # call sites and findings that are kept
_MOST_SURPRISES = 16  # of one line: what surprises every time is usual


def is_sampled(number: int) -> bool:
    """Calls 1, 2, 3, 5, 10, 20, 50, 100, 200, … of a line: so that checks cost less and less of a long run."""
    if number <= 3:
        return True
    if number % 10:
        return number == 5
    while number % 10 == 0:
        number //= 10
    return number in (1, 2, 5)


@dataclass(eq=False)
class Place:
    """A line that makes calls, and how many it made.

    Attributes:
        dims: of the last input of a loss, −1 before.
        was_asked: whether it was asked what to count.
        batches: the counter of its rows, if its losses are means of rows to train on.
        surprises: calls that were looked at out of turn.
    """

    site: CallSite | None
    number: int = 0
    dims: int = -1
    was_asked: bool = False
    batches: BatchSizes | None = None
    surprises: int = 0

    def is_surprising(self, dims: int, *, is_nan: bool) -> bool:
        """Whether a call is to be looked at out of turn: its input has other dims than before, or its loss is NaN."""
        changed = is_nan or (dims != self.dims >= 0)
        self.dims = dims
        self.surprises += changed
        return changed and self.surprises <= _MOST_SURPRISES


class Session:
    """One `xent.doctor()`."""

    def __init__(self, rules: tuple[Rule, ...], model: Module | None = None, *, strict: bool = False) -> None:
        import weakref

        self.rules, self.strict = rules, strict
        self.run = Run(None if model is None else weakref.ref(model))
        self.report = Report()
        self._lock = threading.RLock()
        self._places: dict[tuple[CodeType, int] | None, Place] = {}
        self._sites: dict[tuple[CodeType, int] | None, CallSite | None] = {}
        self._findings: dict[tuple[str, str | None, int | None, str], Finding] = {}
        self._judged: set[str] = set()
        self._since_step = 0
        self._error_words = ""
        self._reasons: dict[str, Counter[str]] = {}
        self._watchers = [(rule, rule.watcher(self.run)) for rule in rules if rule.watcher is not None]
        self._on_call = [rule for rule in rules if rule.at_loss_call is not None]
        self._errors_only = [rule for rule in rules if rule.at_error is not None and rule.at_loss_call is None]
        self._all_listeners = {name: self._overriding(name) for name in _WATCHED}
        self._listeners = self._all_listeners
        # What is asked several times a step is not looked up each time.
        self.heard = frozenset()
        self.hears_backwards = True
        self._listen_to(self._all_listeners)
        self._read_graph = True  # whether that of the last step might be
        self.reads_next_graph = True  # whether the graph of the next backward pass may be read

    def _overriding(self, method: str) -> list[tuple[Rule, Callable[..., Any]]]:
        return [
            (rule, getattr(watcher, method))
            for rule, watcher in self._watchers
            if getattr(type(watcher), method) is not getattr(Watcher, method)
        ]

    def place(self, frame: FrameType | None) -> Place:
        """The record of the line that a frame is at, one call more."""
        key = key_of(frame)
        place = self._places.get(key)
        if place is None:
            place = Place(site_of(frame))
            if len(self._places) < _MOST_PLACES:
                self._places[key] = place
        place.number += 1
        return place

    def known_site(self, frame: FrameType | None) -> CallSite | None:
        """The line that a frame is at."""
        key = key_of(frame)
        if key not in self._sites:
            if len(self._sites) >= _MOST_PLACES:
                return site_of(frame)
            self._sites[key] = site_of(frame)
        return self._sites[key]

    def loss_called(self, call: LossCall) -> None:
        """A loss function returned or raised."""
        with self._lock:
            if call.error is not None:
                self._raised(call)
                return
            for rule in self._on_call:
                if rule.at_loss_call is not None and self._applies(rule, call):
                    self._judge(rule, rule.at_loss_call, call, call.site)
            if call.output is not None:
                self._judged.update(rule.slug for rule in self._errors_only if self._applies(rule, call))
            for rule, listen in self._all_listeners["at_loss_call"]:
                self._judge(rule, listen, call, call.site, counts=False)

    def about_to_call(self, call: LossCall) -> None:
        """A loss function is about to run on an accelerator."""
        with self._lock:
            for rule in self.rules:
                if rule.before_call is not None and self._applies(rule, call):
                    self._judge(rule, rule.before_call, call, call.site)

    @staticmethod
    def _applies(rule: Rule, call: LossCall) -> bool:
        return not rule.functions or call.name in rule.functions

    def _raised(self, call: LossCall) -> None:
        self._error_words = f"{type(call.error).__name__}: {str(call.error).splitlines()[0] if str(call.error) else ''}"
        for rule in self.rules:
            if rule.at_error is not None and self._applies(rule, call):
                self._judge(rule, rule.at_error, call, call.site)
        self._error_words = ""

    def backward_begins(self) -> bool:
        """Count a backward pass; whether its graph is read.

        Sampled are all backwards of steps 1, 2, 3, 5, 10, … (many in one step: the first 16, then ever fewer).
        """
        self.run.num_backwards += 1
        self._since_step += 1
        return self.reads_next_graph and (self._since_step <= 16 or is_sampled(self._since_step))

    def step_begins(self) -> None:
        """Count an optimizer step."""
        self.run.num_steps += 1
        self._since_step = 0
        self._read_graph, self.reads_next_graph = self.reads_next_graph, is_sampled(self.run.num_steps + 1)

    def step_ends(self) -> None:
        """After an optimizer step: rules that may sleep hear of pairs of steps, 1–6, 10 and 11, 20 and 21, …"""
        awake = self.reads_next_graph or self._read_graph
        if awake is (self._listeners is self._all_listeners):
            return
        if awake:
            for _, watcher in self._watchers:
                if not watcher.every_step:
                    watcher.at_wake()
        self._listen_to(self._all_listeners if awake else self._tireless())

    def _tireless(self) -> dict[str, list[tuple[Rule, Callable[..., Any]]]]:
        """What is heard of backwards and steps by those rules that may not sleep now; all of the rest."""
        return {
            name: [(rule, listen) for rule, listen in listeners
                   if name in _NOT_OF_STEPS or listen.__self__.every_step]  # type: ignore[attr-defined]
            for name, listeners in self._all_listeners.items()
        }  # fmt: skip

    def _listen_to(self, listeners: dict[str, list[tuple[Rule, Callable[..., Any]]]]) -> None:
        self._listeners = listeners
        self.heard = frozenset(name for name, some in listeners.items() if some)
        self.hears_backwards = "at_backward" in self.heard or "after_backward" in self.heard

    def backward(self, event: BackwardCall) -> None:
        """A backward pass is about to run: losses written by hand are judged now, then the run's rules hear of it."""
        with self._lock:
            if event.sampled:
                for call in self._unseen_losses(event):
                    self.run.num_calls[call.name] += 1
                    self.loss_called(call)
            self._tell("at_backward", event)

    def _unseen_losses(self, event: BackwardCall) -> list[LossCall]:
        try:
            return [call for call in event.loss_calls if not call.was_seen]
        except Exception:
            if self.strict:
                raise
            return []

    def tell(self, method: str, event: Reduction | Write | BackwardCall | OptimizerStep | GradientEvent) -> None:
        """Give an event of a run to the watchers."""
        with self._lock:
            self._tell(method, event)

    def _tell(self, method: str, event: Event) -> None:
        for rule, listen in self._listeners[method]:
            self._judge(rule, listen, event, event.site, counts=False)

    def _judge(
        self, rule: Rule, check: Callable[[Any], Iterable[Found] | None], event: Any, site: CallSite | None,
        *, counts: bool = True,
    ) -> None:  # fmt: skip
        """Run one check; whatever goes wrong in it is a reason, never an error of the program."""
        try:
            for found in check(event) or ():
                self._keep(rule, found, site)
            if counts:
                self._judged.add(rule.slug)
        except NotChecked as reason:
            self._reasons.setdefault(rule.slug, Counter())[str(reason)] += 1
        except Exception as error:
            if self.strict:
                raise
            reason = f"the check itself failed: {type(error).__name__}: {error}"
            self._reasons.setdefault(rule.slug, Counter())[reason.splitlines()[0][:200]] += 1

    def _keep(self, rule: Rule, found: Found, site: CallSite | None) -> None:
        site = found.site or site
        if site is not None and rule.slug in site.ignored:
            return
        severity, certainty = found.severity or rule.severity, found.certainty or rule.certainty
        file, line = (site.file, site.line) if site else (None, None)
        key = (rule.slug, file, line, severity)
        before = self._findings.get(key)
        if before is not None:
            self._findings[key] = replace(before, count=before.count + 1)
        elif len(self._findings) < _MOST_PLACES:
            self._findings[key] = Finding(
                rule=rule.slug, severity=severity, certainty=certainty, message=found.message, fix=found.fix,
                proof=found.proof, file=file, line=line, code=site.code if site else "",
                called_from=site.called_from if site else "", raised=self._error_words,
                values=dict(found.values),
            )  # fmt: skip

    def end(self) -> Report:
        """Let every watcher conclude, and write the report."""
        with self._lock, torch.no_grad():
            for rule, watcher in self._watchers:
                self._judge(rule, lambda _, watcher=watcher: watcher.at_end(), None, None)
            self._write()
        return self.report

    def _write(self) -> None:
        found = sorted(self._findings.values(), key=lambda each: _ORDER[each.severity])
        self.report.findings, self.report.finished = tuple(found), True
        known = {each.rule for each in found} | self._judged
        self.report.checked = tuple(rule.slug for rule in self.rules if rule.slug in known)
        self.report.unchecked = tuple(
            Unchecked(rule.slug, self._reason(rule)) for rule in self.rules if rule.slug not in known
        )

    def _reason(self, rule: Rule) -> str:
        reasons = self._reasons.get(rule.slug)
        if reasons:
            return reasons.most_common(1)[0][0]
        if not self.run.num_calls:
            return "no loss function was called"
        if rule.functions and not any(self.run.num_calls[name] for name in rule.functions):
            return f"no {' or '.join(rule.functions)} was called"
        return "the run did not show it"


_WATCHED = (
    "at_loss_call",
    "at_reduction",
    "at_write",
    "at_backward",
    "after_backward",
    "at_step",
    "after_step",
    "at_gradients",
)
_NOT_OF_STEPS = ("at_loss_call", "at_reduction", "at_write")  # they are rare, or sampled by themselves
