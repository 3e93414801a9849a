"""Programs as text, run under the doctor in this process."""

from __future__ import annotations

import linecache
from itertools import count
from typing import Any

import torch

from xent.inspection.checks._registry import chosen_rules
from xent.inspection.examination import _capture
from xent.inspection.examination._report import Report
from xent.inspection.examination._session import Session

_numbers = count()


def examined(source: str, *, only: tuple[str, ...] = (), mute: tuple[str, ...] = (), model: Any = None) -> Report:
    """The report on a program; its lines count from 1 at the first line that is not empty.

    An exception that the program raises ends it and is left out, as `xent doctor` does after printing it. An exception
    in a check is raised.
    """
    source = source.lstrip("\n")
    name = f"<program {next(_numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    session = Session(chosen_rules(mute, only), model, strict=True)
    torch.manual_seed(0)
    variables: dict[str, Any] = {"__name__": "__main__"}
    _capture.begin(session)
    try:
        exec(compile(source, name, "exec"), variables)
    except Exception as error:
        if _comes_from_a_check(error):
            raise
    finally:
        _capture.end(session)
    return session.end()  # the program's variables still live


def _comes_from_a_check(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if "/xent/inspection/checks/" in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def found(report: Report) -> list[tuple[str, int | None]]:
    """(slug, line) of each finding."""
    return [(finding.rule, finding.line) for finding in report.findings]
