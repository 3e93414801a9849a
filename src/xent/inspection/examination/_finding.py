"""What a rule says: found, or not checked and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xent.inspection.examination._call_site import CallSite

Severity = Literal["error", "warning", "info"]
Certainty = Literal["proof", "signature", "heuristic"]
Number = float | int


class NotChecked(Exception):  # noqa: N818  (what it says of the rule)
    """A rule can't judge this event; the text is the reason, in words for the report."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check yields: one mistake.

    Attributes:
        message: one sentence of cause with the user's numbers, then the consequence.
        fix: the change that mends it, one line.
        proof: how it was proved, in a few words ("SoftmaxBackward0 over dim 1 made the logits").
        values: the numbers in the message, for JSON.
        certainty: where it is not the rule's own (proof by graph, else signature by values).
        severity: where it is not the rule's own.
        site: the line to name, where it is not that of the event.
    """

    message: str
    fix: str
    proof: str = ""
    values: Mapping[str, Number] = field(default_factory=dict)
    certainty: Certainty | None = None
    severity: Severity | None = None
    site: CallSite | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One mistake at one place, with how often it was seen there.

    Attributes:
        rule, severity, certainty, message, fix, proof, values: as the rule says.
        file, line, code: where, and the text of the line.
        called_from: the user's own file and line, where `file` belongs to an installed package.
        raised: torch's exception and its message, where it raised.
        count: in how many of the calls that were looked at.
    """

    rule: str
    severity: Severity
    certainty: Certainty
    message: str
    fix: str
    proof: str = ""
    file: str | None = None
    line: int | None = None
    code: str = ""
    called_from: str = ""
    raised: str = ""
    count: int = 1
    values: Mapping[str, Number] = field(default_factory=dict)

    @property
    def is_bad(self) -> bool:
        """Whether it makes the exit status 1."""
        return self.severity in ("error", "warning")

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON has it."""
        names = ("rule", "severity", "certainty", "message", "fix", "file", "line", "count")
        found = {**{name: getattr(self, name) for name in names}, "values": dict(self.values)}
        return {**found, "message": f"torch raised {self.raised} {self.message}"} if self.raised else found

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file else ""
        return f"{where}{self.rule}: {self.message} {self.fix}"


@dataclass(frozen=True)
class Unchecked:
    """A rule that could not judge, and why."""

    rule: str
    reason: str
