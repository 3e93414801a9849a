"""`Report`: what was found, what was checked, and what could not be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xent.errors import XentError
from xent.inspection.examination._finding import Finding, Unchecked
from xent.inspection.examination._report_receipt import receipt_of

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class MistakesFoundError(XentError, AssertionError):
    """`Report.assert_clean` found mistakes; its text is the report."""

    def __str__(self) -> str:
        return self.got


class Report:
    """What the doctor found; print it, or read its numbers.

    Attributes:
        findings: mistakes: errors first, then warnings, then what is only worth knowing.
        checked: slugs of the rules that could judge.
        unchecked: those that could not, with the reason.
        finished: whether the block or program has ended; before that, the rest is empty.
    """

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.checked: tuple[str, ...] = ()
        self.unchecked: tuple[Unchecked, ...] = ()
        self.finished = False

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

    def to_json(self) -> str:
        """The same as text; infinities and NaN, which JSON does not have, as strings."""
        return json.dumps(_finite(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        return f"<Report: {len(self.findings)} findings, {len(self.checked)} rules checked>"

    def __str__(self) -> str:
        return str(receipt_of(self))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from xent.report._terminal import rich_receipt

        yield rich_receipt(receipt_of(self), min(options.max_width, 100))

    def _repr_html_(self) -> str:
        from xent.report._notebook import html_receipt

        return html_receipt(receipt_of(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
