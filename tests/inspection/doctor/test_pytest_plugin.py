"""The plugin, run by pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest, torch
from torch.nn.functional import cross_entropy

def loss(x): return cross_entropy(x, torch.tensor([0, 1]))
def probabilities(): return torch.zeros(2, 3, requires_grad=True).softmax(1)

def test_mistaken(): loss(probabilities())
def test_right(): loss(torch.zeros(2, 3, requires_grad=True))
@pytest.mark.xent_doctor(mute=["softmax-before-cross-entropy"])
def test_muted(): loss(probabilities())
def test_without_a_loss(): pass
def test_that_fails_itself(): assert loss(probabilities()) < 0
"""
WITH_FIXTURE = (
    TESTS
    + """
def test_with_the_fixture(xent_doctor):
    loss(probabilities())
"""
)


def run(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(text)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xent.pytest_plugin", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "counts"),
    [pytest.param((), "1 failed, 4 passed", marks=pytest.mark.slow),
     (("--xent-doctor",), "2 failed, 3 passed"),
     pytest.param(("--xent-doctor", "--xent-doctor-mute", "softmax-before-cross-entropy"), "1 failed, 4 passed",
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_off_by_default_and_on_when_asked(tmp_path, arguments, counts):
    result = run(tmp_path, TESTS, *arguments)
    assert counts in result.stdout, result.stdout + result.stderr
    assert ("xent doctor" in result.stdout) == bool(arguments)
    if arguments == ("--xent-doctor",):
        assert "test_it.py::test_mistaken" in result.stdout
        assert "test_it.py:5" in result.stdout  # the line of the call
        assert "5 tests" in result.stdout


@pytest.mark.slow
def test_a_failure_of_the_test_itself_is_shown_as_it_is(tmp_path):
    result = run(tmp_path, TESTS, "--xent-doctor", "-k", "fails_itself")
    assert "assert tensor(" in result.stdout


def test_the_fixture_needs_no_option(tmp_path):
    result = run(tmp_path, WITH_FIXTURE, "-k", "fixture")
    assert "1 passed, 5 deselected, 1 error" in result.stdout, result.stdout


def test_an_unknown_rule_is_wrong_usage(tmp_path):
    result = run(tmp_path, TESTS, "--xent-doctor-mute", "softmax")
    assert result.returncode == 4
    assert "rule 'softmax'" in result.stderr
