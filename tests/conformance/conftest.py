"""One thread, counted samples, and the option that writes the table of docs/conformance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from . import counts

PASSED: dict[counts.Cell, int] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance-counts", metavar="FILE", type=Path, help="write the table of passed samples")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The samples are tiny: a second thread only adds waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def passed(record_property: Callable[[str, object], None]) -> Callable[[str, str, object, int], None]:
    """Call it with subject, check, dtype (or variant) and the number of samples; it counts if the test passes."""

    def record(subject: str, check: str, dtype: object, number: int) -> None:
        record_property("conformance", [subject, check, str(dtype), number])

    return record


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        for name, value in report.user_properties:
            if name == "conformance":
                subject, check, dtype, number = value
                PASSED[subject, check, dtype] = number


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--conformance-counts", default=None)
    if path is not None and not hasattr(session.config, "workerinput"):
        path.write_text(counts.page(PASSED), encoding="utf-8")
