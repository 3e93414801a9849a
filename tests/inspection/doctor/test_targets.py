"""Class indices out of range, and batches in which no row counts."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
logits = torch.randn(4, 3)
def loss(y, **options): return F.cross_entropy(logits, torch.tensor(y), **options)
"""
RANGE, NONE = "class-index-out-of-range", "all-ignored"
OUT_OF_RANGE = {
    "from one": ("[1, 2, 3, 1]", "subtract 1"),
    "padding": ("[1, 2, -1, -1]", "pass ignore_index=-1"),
    "a mark": ("[1, 255, 0, 255]", "pass ignore_index=255"),
    "too many": ("[0, 3, 4, 1]", "give the last layer at least 5 outputs"),
}
IGNORED = {
    "all": "F.cross_entropy(logits, torch.full((4,), -100))",
    "an index of one's own": "F.nll_loss(logits.log_softmax(1), torch.zeros(4).long(), ignore_index=0)",
    "weights of 0": "F.cross_entropy(logits, torch.zeros(4).long(), weight=torch.tensor([0.0, 1, 1]))",
    "no rows": "F.cross_entropy(logits[:0], torch.zeros(0).long())",
}
COUNTED = {
    "one row counts": "F.cross_entropy(logits, torch.tensor([-100, 2, -100, -100]))",
    "a sum": "F.cross_entropy(logits, torch.full((4,), -100), reduction='sum')",
    "rows": "F.cross_entropy(logits, torch.full((4,), -100), reduction='none')",
    "NaN of the logits": "F.cross_entropy(logits * float('nan'), torch.zeros(4).long())",
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_out_of_range(name: str) -> None:
    target, fix = OUT_OF_RANGE[name]
    report = examined(HEAD + f"loss({target})")
    assert found(report) == [(RANGE, 4)]
    assert report.findings[0].fix.startswith(fix)
    assert report.findings[0].raised.startswith("IndexError: Target")


def test_rows_and_values_are_named() -> None:
    (finding,) = examined(HEAD + "loss([0, 3, 4, 1])", only=(RANGE,)).findings
    assert (finding.values["rows"], finding.values["first"], finding.values["max"]) == (2, 1, 4)
    assert "the first at position 1, 3" in finding.message


def test_a_target_of_another_shape_is_no_class_out_of_range() -> None:
    report = examined(HEAD + "F.cross_entropy(torch.randn(4, 3, 9), torch.randint(5, 9, (4, 3)))", only=(RANGE,))
    assert not report.findings


def test_ignored_targets_may_be_anything() -> None:
    assert not examined(HEAD + "loss([0, 7, 1, 2], ignore_index=7)", only=(RANGE,)).findings


@pytest.mark.parametrize("name", IGNORED)
def test_no_row_counts(name: str) -> None:
    assert found(examined(HEAD + IGNORED[name], only=(NONE,))) == [(NONE, 5)]


@pytest.mark.parametrize("name", COUNTED)
def test_rows_count(name: str) -> None:
    report = examined(HEAD + COUNTED[name], only=(NONE,))
    assert not report.findings
    assert report.checked == (NONE,)


def test_a_call_that_is_not_sampled_is_seen() -> None:
    """The seventh call of a line is none of 1, 2, 3, 5, 10."""
    report = examined(HEAD + "for k in range(9): loss([0 if k != 6 else -100] * 4)", only=(NONE,))
    assert report.findings[0].count == 1
