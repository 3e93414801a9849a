"""Every program of the zoo runs by itself and ends with the status that it states."""

from __future__ import annotations

import pytest

from tests.zoo._programs import Program, programs

ALL = [program for folder in ("mistaken", "corrected", "correct", "notebooks") for program in programs(folder)]


@pytest.mark.parametrize("program", ALL, ids=lambda program: program.name)
def test_ends_with_its_status(program: Program, run):
    for outcome in run(program):
        assert outcome.status == program.status, outcome.stderr
        assert outcome.stdout or program.status


def test_each_mistake_has_two_programs_with_twins():
    mistaken = {program.name.removeprefix("mistaken/"): program for program in programs("mistaken")}
    corrected = {program.name.removeprefix("corrected/"): program for program in programs("corrected")}
    assert mistaken.keys() == corrected.keys()
    for name, program in mistaken.items():
        assert name.split("/")[0] in program.rules
        assert not corrected[name].rules
    slugs = [name.split("/")[0] for name in mistaken]
    assert min(slugs.count(slug) for slug in slugs) >= 2


def test_there_are_forty_correct_programs():
    assert len(programs("correct")) >= 40
