"""The doctor judged by the zoo: each mistake found at its line, and nothing that is not there.

A line may be wrong by nothing; a correct program may get remarks (severity info), never an error or a warning.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.zoo._forks import Outcome
from tests.zoo._programs import ZOO, Program, programs, read

GRAVE = {"error", "warning"}
SAME_OUTPUT = [
    "correct/adversarial_training",
    "correct/command_line",
    "correct/compiled_model",
    "correct/dataloader_workers",
    "correct/gan",
    "correct/lbfgs",
    "correct/multiprocessing_pool",
    "correct/own_exit_status",
    "correct/prints_a_lot",
    "correct/reads_stdin",
    "correct/threads",
    "mistaken/classes-not-dim-1/two",
    "mistaken/softmax-before-cross-entropy/two",
    "mistaken/stuck-at-prior/two",
    "notebooks/notebook_002",
]


@pytest.fixture
def examine(run, tmp_path: Path):
    """Run a program under `xent doctor --json`; return its outcomes and reports, one of each per process."""

    def examine(program: Program) -> tuple[list[Outcome], list[dict]]:
        outcomes = run(program, doctor=["--json", str(tmp_path / "report{rank}.json")])
        reports = [tmp_path / f"report{rank}.json" for rank in range(program.ranks)]
        missing = [outcome.stderr for outcome, report in zip(outcomes, reports, strict=True) if not report.exists()]
        assert not missing, missing[0]
        return outcomes, [json.loads(report.read_text()) for report in reports]

    return examine


def _by_name(program: Program) -> str:
    return program.name


@pytest.mark.parametrize("program", programs("mistaken") + programs("notebooks"), ids=_by_name)
def test_mistakes_are_found_at_their_lines(program: Program, examine):
    outcomes, reports = examine(program)
    found = {(finding["rule"], finding["line"]) for finding in _findings(program, reports)}
    named = {rule: lines & {line for other, line in found if other == rule} for rule, lines in program.near.items()}
    near = {(rule, line) for rule, lines in program.near.items() for line in lines}
    assert program.expected <= found, outcomes[0].stderr
    assert all(named.values()), (named, outcomes[0].stderr)
    assert found - program.expected - near - program.allowed == set(), outcomes[0].stderr
    _assert_statuses(program, outcomes, reports)


@pytest.mark.parametrize("program", programs("corrected") + programs("correct"), ids=_by_name)
def test_no_alarm_on_correct_programs(program: Program, examine):
    outcomes, reports = examine(program)
    findings = _findings(program, reports)
    assert [finding for finding in findings if finding["severity"] in GRAVE] == [], outcomes[0].stderr
    assert program.path.parent.name not in {finding["rule"] for finding in findings}
    _assert_statuses(program, outcomes, reports)


@pytest.mark.parametrize("name", SAME_OUTPUT)
def test_output_is_that_of_the_plain_run(name: str, run, tmp_path: Path):
    program = read(ZOO / f"{name}.py")
    plain = run(program)
    watched = run(program, doctor=[])
    assert [outcome.stdout for outcome in watched] == [outcome.stdout for outcome in plain]
    for before, after in zip(plain, watched, strict=True):
        last_words = before.stderr.splitlines()[-1:]  # of torch's exception, where there is one
        assert not program.status or set(last_words) <= set(after.stderr.splitlines())


def _findings(program: Program, reports: list[dict]) -> list[dict]:
    findings = [finding for report in reports for finding in report["findings"]]
    assert {Path(finding["file"]).resolve() for finding in findings} <= {program.path}
    return findings


def _assert_statuses(program: Program, outcomes: list[Outcome], reports: list[dict]) -> None:
    for outcome, report in zip(outcomes, reports, strict=True):
        grave = any(finding["severity"] in GRAVE for finding in report["findings"])
        assert outcome.status == (program.status or int(grave)), outcome.stderr
