"""What a question is, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from xent.bench.contest import Entry
from xent.bench.needs import Need
from xent.errors import OptionError

_FILE_OF = {"cross-entropy": "xent.bench.cross_entropy", "linear": "xent.bench.linear"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work.

    Attributes:
        name: short, for `--only` and the results file.
        group: heading that it stands under.
        title: one line for a reader.
        dtype: name of the dtype.
        shape: of the problem.
        backward: whether the gradients are part of the work.
        num_logits: rows times classes.
        logits_bytes: their size, held or not.
        gradient_bytes: size of the gradients that the work must leave behind.
        memory: whether memory is measured too.
        needs: what the contest must show.
    """

    name: str
    group: str
    title: str
    dtype: str
    shape: tuple[int, ...]
    backward: bool
    num_logits: int
    logits_bytes: int
    gradient_bytes: int
    memory: bool
    needs: tuple[Need, ...] = ()


class Field(Protocol):
    """The inputs of a case."""

    def entry(self, contestant: str) -> Entry:
        """A contestant on these inputs; raises where it can't do this case."""
        ...

    def gradient_error(self, gradients: Any) -> float:
        """Error of gradients against float64."""
        ...

    def backend(self) -> dict[str, object]:
        """The choice of a backend that xent makes for this case."""
        ...


@dataclass(frozen=True)
class Question:
    """A list of cases and who takes part.

    Attributes:
        name: on the command line.
        title: one line.
        baseline: the contestant whose ratio is 1.
        labels: contestant → how it is shown, in the order of the tables.
        error_text: what `Field.gradient_error` measures.
        cases: all cases, or (True) small ones that finish in seconds.
        contestants: who takes part in a case.
        absent: contestant → why it can't take part here.
        field: makes the inputs of a case.
        beside: who is timed beside the contestants of a run that measures only some (`--with`).
    """

    name: str
    title: str
    baseline: str
    labels: dict[str, str]
    error_text: str
    cases: Callable[[bool], Sequence[Any]]
    contestants: Callable[[Any], list[str]]
    absent: Callable[[], dict[str, str]]
    field: Callable[[Any], Field]
    beside: tuple[str, ...]


def named(name: str) -> Question:
    """The question called `name`."""
    if name not in _FILE_OF:
        raise OptionError(f"question {name!r}", f"it is one of {', '.join(_FILE_OF)}", "pass one of these")
    return import_module(_FILE_OF[name]).QUESTION
