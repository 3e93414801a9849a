"""The doctor at the first steps of a run: what it finds becomes records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xent.inspection.examination import _capture
from xent.inspection.examination._doctor import session_for
from xent.inspection.examination._finding import Finding
from xent.inspection.watching._subjects import Subjects

LAST_STEP = 21  # the doctor looks at steps 1, 2, 3, 5, 10 and 20, and at the one after


class FirstSteps:
    """The doctor, from the beginning to step 21 or the end."""

    def __init__(self, subjects: Subjects, write: Callable[..., Any]) -> None:
        self._write, self._session = write, session_for(subjects.models, subjects.optimizers)

    def conclude(self, step: int) -> None:
        """Write what was found, and look no more."""
        _capture.end(self._session)
        for finding in self._session.end().findings:
            self._write("finding", step=step, **_fields(finding))


def _fields(finding: Finding) -> dict[str, Any]:
    names = ("rule", "severity", "certainty", "message", "fix", "file", "line", "count")
    return {**{name: getattr(finding, name) for name in names}, "source": finding.code}
