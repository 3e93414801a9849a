"""Targets that should be probabilities; masks and roundings that are left alone."""

from __future__ import annotations

import math

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
logits, y = torch.randn(8, 3), torch.randint(3, (8,))
soft, hard = torch.rand(8, 3).softmax(1), F.one_hot(y, 3).float()
"""
SOFT, BINARY = "soft-target-not-distribution", "bce-target-outside-0-1"
MISTAKEN = {
    "several ones": ("F.cross_entropy(logits, torch.ones(8, 3))", SOFT, "binary_cross_entropy_with_logits"),
    "logits": ("F.cross_entropy(logits, 2 * logits.flip(1))", SOFT, "target.softmax(1)"),
    "log-probabilities": ("F.cross_entropy(logits, soft.log())", SOFT, "target.exp()"),
    "wrongly smoothed": ("F.cross_entropy(logits, 0.9 * hard + 0.1)", SOFT, "target / target.sum"),
    "a batch as one row": ("F.cross_entropy(logits[:, 0], torch.ones(8))", SOFT, "binary_cross_entropy_with_logits"),
    "classes": ("F.binary_cross_entropy_with_logits(logits[:, 0], torch.arange(8) % 5 * 1.0)", BINARY, "5 outputs"),
    "−1 and 1": (
        "F.binary_cross_entropy_with_logits(logits, 2 * (soft > 0.3).float() - 1)",
        BINARY,
        "(target + 1) / 2",
    ),
    "classes, refused": ("F.binary_cross_entropy(soft, 2 * hard)", BINARY, "cross_entropy"),
    "NaN": ("F.binary_cross_entropy_with_logits(logits, hard / hard)", BINARY, "isnan"),
}
CORRECT = {
    "soft": "F.cross_entropy(logits, soft)",
    "smoothed": "F.cross_entropy(logits, 0.9 * hard + 0.1 / 3)",
    "half": "F.cross_entropy(logits.bfloat16(), soft.bfloat16())",
    "masked rows": "hard[::2] = 0; F.cross_entropy(logits, hard)",
    "binary": "F.binary_cross_entropy_with_logits(logits, soft)",
    "rounded": "F.binary_cross_entropy_with_logits(logits, hard * (1 + 1e-6))",
    "masked later": "(F.binary_cross_entropy_with_logits(logits, hard - 2, reduction='none') * 0).sum()",
    "masked by weight": "F.binary_cross_entropy_with_logits(logits, hard - 1, weight=hard)",
    "indices": "F.cross_entropy(logits, y)",
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    statement, rule, fix = MISTAKEN[name]
    report = examined(HEAD + statement, only=(SOFT, BINARY))
    assert found(report) == [(rule, 5)], str(report)
    assert fix in report.findings[0].fix


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=(SOFT, BINARY))
    assert not report.findings, str(report)


def test_the_sums_and_the_floor_are_the_users_own() -> None:
    """Three ones in each row: the best logits are equal, and each class gives ln 3."""
    (finding,) = examined(HEAD + "F.cross_entropy(logits, torch.ones(8, 3))", only=(SOFT,)).findings
    assert (finding.values["rows"], finding.values["least_sum"]) == (8, 3.0)
    assert f"{3 * math.log(3):.4g}" in finding.message
