"""A report as the blocks of a receipt: text, Rich and HTML are made from these."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from xent.inspection.examination._finding import Finding
from xent.report import Line, Receipt, Title

if TYPE_CHECKING:
    from xent.inspection.examination._report import Report

_MOST = 30  # findings that are shown
_LONGEST = 68  # characters of a place
_NOT_CALLED = "the losses that these are about were not called"
_IS_NOT_CALLED = re.compile(r"no \w+( or \w+)* was called")
_VERDICTS = {"error": "bad", "warning": "warn", "info": ""}
_LABELS = {"error": "error", "warning": "warn", "info": "info"}
_HOW_SURE = {"proof": "proved", "signature": "very likely", "heuristic": "suspected"}


def receipt_of(report: Report) -> Receipt:
    """All blocks, in order."""
    blocks: list[Title | Line] = [Title(f"xent doctor · {_counts(report)}")]
    for finding in report.findings[:_MOST]:
        blocks.extend(_blocks_of(finding))
    hidden = len(report.findings) - _MOST
    if hidden > 0:
        blocks += [Line("", ""), Line("", f"… and {hidden} more: .findings, or --json FILE, has them all")]
    return Receipt((*blocks, *_closing(report)))


def _counts(report: Report) -> str:
    if not report.finished:
        return "at work: the report is here when the block ends"
    if not report.findings:
        return "nothing found" if report.checked else "nothing could be checked"
    parts = []
    for severity, one, many in (("error", "error", "errors"), ("warning", "warning", "warnings"),
                                ("info", "note", "notes")):  # fmt: skip
        count = sum(finding.severity == severity for finding in report.findings)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return " · ".join(parts)


def _blocks_of(finding: Finding) -> list[Line]:
    place = _place(finding.file, finding.line) if finding.file else "over the run"
    times = f" · {finding.count} times" if finding.count > 1 else ""
    head = f"{finding.rule} · {place}{times}"
    lines = [Line("", ""), Line(_LABELS[finding.severity], head, _VERDICTS[finding.severity])]
    if finding.code:
        lines.append(Line("", finding.code, "code"))
    if finding.called_from:
        file, _, line = finding.called_from.rpartition(":")
        lines.append(Line("", f"called from {_place(file, line)}", "dim"))
    if finding.raised:
        lines.append(Line("torch", finding.raised))
    lines.append(Line("", finding.message))
    lines.append(Line("fix", finding.fix, "good"))
    sure = _HOW_SURE[finding.certainty]
    lines.append(Line("sure", f"{sure}: {finding.proof}" if finding.proof else sure, "dim"))
    return lines


def check_lines(report: Report) -> list[Line]:
    """The checks of one loss, as the receipt of its explanation ends."""
    made = f"{len(report.checked)} made, " + (f"{_counts(report)}" if report.findings else "nothing found")
    reasons = list(dict.fromkeys(each.reason for each in report.unchecked))
    missing = f"; {len(report.unchecked)} not possible ({'; '.join(reasons)})" if reasons else ""
    lines = [Line("checks", made + missing)]
    for finding in report.findings:
        lines.append(Line(_LABELS[finding.severity], f"{finding.rule}: {finding.message}", _VERDICTS[finding.severity]))
        lines.append(Line("fix", finding.fix, "good"))
    return lines


def _closing(report: Report) -> list[Line]:
    if not report.finished:
        return []
    checked, unchecked = len(report.checked), len(report.unchecked)
    lines = [
        Line("", ""),
        Line("checks", f"checked {checked}" + (f", could not check {unchecked}:" if unchecked else "")),
    ]
    by_reason: dict[str, list[str]] = defaultdict(list)
    for each in report.unchecked:
        by_reason[_NOT_CALLED if _IS_NOT_CALLED.fullmatch(each.reason) else each.reason].append(each.rule)
    for reason, rules in by_reason.items():
        lines.append(Line(f"{len(rules):>6}", f"{reason} ({', '.join(rules)})", "dim"))
    return lines


def _place(file: str, line: int | str | None) -> str:
    """File and line in one word that fits into 80 columns: the end of a path says more than its beginning."""
    place = f"{shown_path(file)}:{line}"
    return place if len(place) <= _LONGEST else f"…{place[1 - _LONGEST :]}"


def shown_path(file: str | None) -> str:
    """A file as it is found from here; of an installed package, as it is imported."""
    if not file or not os.path.isabs(file):  # noqa: PTH117  (a text such as <string>, no path)
        return file or ""
    for packages in ("/site-packages/", "/dist-packages/"):
        if packages in file:
            return file.rpartition(packages)[2]
    here = os.getcwd() + os.sep  # noqa: PTH109
    return file.removeprefix(here)
