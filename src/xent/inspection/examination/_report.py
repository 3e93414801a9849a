"""`Report`: what was found, what was checked, and what could not be."""

from __future__ import annotations

from typing import Any

from xent.errors import XentError
from xent.inspection.examination._finding import Finding, Unchecked


class MistakesFoundError(XentError, AssertionError):
    """`Report.assert_clean` found mistakes."""

    def __str__(self) -> str:
        return self.got


class Report:
    """What the doctor found; print it.

    Attributes:
        findings: mistakes, errors first.
        checked: slugs of the rules that could judge.
        unchecked: those that could not, with the reason.
    """

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.checked: tuple[str, ...] = ()
        self.unchecked: tuple[Unchecked, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether there is no error and no warning."""
        return not any(finding.is_bad for finding in self.findings)

    def assert_clean(self) -> None:
        """Raise if there is an error or a warning; for tests.

        Raises:
            MistakesFoundError: an AssertionError with the report as its text.
        """
        if not self.is_clean:
            raise MistakesFoundError(str(self), "a clean report has no error and no warning", "mend them")

    def to_dict(self) -> dict[str, Any]:
        """The report as `xent doctor --json` writes it."""
        return {
            "checked": list(self.checked),
            "unchecked": [{"rule": each.rule, "reason": each.reason} for each in self.unchecked],
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["nothing found"]
        return "\n".join([*lines, f"checked {len(self.checked)}, could not check {len(self.unchecked)}"])
