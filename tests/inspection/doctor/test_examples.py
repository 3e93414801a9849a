"""The example of every rule gives its finding; the corrected one gives no error and no warning, of no rule."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found
from xent.inspection.checks._registry import all_rules
from xent.inspection.checks._rule import Rule

ELSEWHERE = {"mean-of-means-across-ranks"}  # found by two processes only: tests/inspection/doctor/test_means.py
RULES = [pytest.param(rule, id=rule.slug) for rule in all_rules()]


@pytest.mark.parametrize("rule", RULES)
def test_the_example_is_found(rule: Rule) -> None:
    if rule.slug in ELSEWHERE:
        pytest.skip("its example needs two processes")
    report = examined(rule.example)
    assert rule.slug in [slug for slug, _ in found(report)], str(report)
    severities = {each.severity for each in report.findings if each.rule == rule.slug}
    assert severities == {rule.severity}


@pytest.mark.parametrize("rule", RULES)
def test_the_corrected_example_is_clean(rule: Rule) -> None:
    report = examined(rule.corrected)
    assert not [each for each in report.findings if each.is_bad or each.rule == rule.slug], str(report)


def test_slugs_are_unique() -> None:
    slugs = [rule.slug for rule in all_rules()]
    assert len(slugs) == len(set(slugs))
