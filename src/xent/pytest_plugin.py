"""`pytest --xent-doctor`: every test under the doctor. The fixture `xent_doctor` does it for one test.

pytest loads this file in every run, so that it imports nothing but pytest before it is asked for something.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xent.inspection import Report

_REPORTS = pytest.StashKey["dict[str, Report]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("xent")
    group.addoption(
        "--xent-doctor",
        action="store_true",
        help="run each test under xent.doctor(); one that makes a mistake with its loss fails",
    )
    group.addoption(
        "--xent-doctor-mute", action="append", default=[], metavar="RULE", help="leave a rule out; may be repeated"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Whether the rules that are named exist; the marker."""
    config.addinivalue_line("markers", "xent_doctor(mute=[...]): rules to leave out of this test under --xent-doctor")
    config.stash[_REPORTS] = {}
    muted: list[str] = config.getoption("--xent-doctor-mute") or []
    if muted:
        from xent.errors import OptionError
        from xent.inspection.checks._registry import check_names

        try:
            check_names(muted)
        except OptionError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The test itself, under the doctor; its fixtures are not."""
    if not item.config.getoption("--xent-doctor") or "xent_doctor" in getattr(item, "fixturenames", ()):
        return (yield)
    import xent

    with xent.doctor(mute=_muted(item)) as report:
        _keep(item, report)
        result = yield
    if not report.is_clean:
        pytest.fail(f"{item.nodeid}\n{report}", pytrace=False)
    return result


@pytest.fixture
def xent_doctor(request: pytest.FixtureRequest) -> Iterator[Report]:
    """A test under `xent.doctor()`: it fails if it makes a mistake with its loss. Gives the report."""
    import xent

    with xent.doctor(mute=_muted(request.node)) as report:
        _keep(request.node, report)
        yield report
    if not report.is_clean:
        pytest.fail(f"{request.node.nodeid}\n{report}", pytrace=False)


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """How many tests were checked, and what was found in them."""
    del exitstatus
    reports = config.stash[_REPORTS]
    if not reports:
        return
    terminalreporter.section("xent doctor")
    checked = {rule for report in reports.values() for rule in report.checked}
    found = {node: report for node, report in reports.items() if report.findings}
    for node, report in found.items():
        rules = ", ".join(f"{each.rule} ({each.severity})" for each in report.findings)
        terminalreporter.write_line(f"{node}: {rules}")
    terminalreporter.write_line(f"{len(reports)} tests, {len(checked)} rules could judge, findings in {len(found)}")


def _muted(item: Any) -> list[str]:
    muted = list(item.config.getoption("--xent-doctor-mute"))
    for marker in item.iter_markers("xent_doctor"):
        muted += marker.kwargs.get("mute", [])
    return muted


def _keep(item: Any, report: Report) -> None:
    item.config.stash[_REPORTS][item.nodeid] = report
