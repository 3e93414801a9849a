"""Classes in another dim than the loss looks in; layers that write them elsewhere on purpose."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
embedding, layer, conv = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 5), torch.nn.Conv2d(1, 3, 1)
ids, long = torch.randint(20, (4, 5)), torch.randint(20, (4, 7))
logits, longer, pixels = layer(embedding(ids)), layer(embedding(long)), conv(torch.randn(2, 1, 6, 6))
"""
LAYOUT, VIEW, ONE = "classes-not-dim-1", "view-instead-of-transpose", "one-class"
MISTAKEN = {
    "as many classes as positions": ("F.cross_entropy(logits, ids % 5)", LAYOUT),
    "after a log_softmax": ("F.nll_loss(logits.log_softmax(-1), ids % 5)", LAYOUT),
    "a table": ("F.cross_entropy(torch.nn.Embedding(20, 5)(ids), ids % 5)", LAYOUT),
    "after an LSTM": (
        "F.cross_entropy(layer(torch.nn.LSTM(8, 8, batch_first=True)(embedding(ids))[0]), ids % 5)",
        LAYOUT,
    ),
    "refused": ("F.cross_entropy(longer, long % 5)", LAYOUT),
    "refused, an image": ("F.cross_entropy(torch.randn(2, 6, 5, 3), torch.randint(3, (2, 6, 5)))", LAYOUT),
    "soft": ("F.cross_entropy(longer, F.one_hot(long % 5, 5).float())", LAYOUT),
    "a view": ("F.cross_entropy(longer.view(4, 5, 7), long % 5)", VIEW),
    "a reshape of a slice": ("F.cross_entropy(longer[:, 1:].reshape(4, 5, 6), long[:, 1:] % 5)", VIEW),
    "a view after an activation": ("F.cross_entropy(longer.relu().view(4, 5, 7), long % 5)", VIEW),
    "flattened pixels": ("F.cross_entropy(pixels.view(-1, 3), torch.randint(3, (72,)))", VIEW),
    "one class": ("F.cross_entropy(torch.nn.Linear(8, 1)(torch.randn(4, 8)), torch.zeros(4).long())", ONE),
    "one class, one row": ("F.cross_entropy(torch.nn.Linear(8, 1)(torch.randn(1, 8)), torch.zeros(1).long())", ONE),
    "one channel": (
        "F.cross_entropy(torch.nn.Conv2d(1, 1, 1)(torch.randn(1, 1, 4, 4)), torch.zeros(1, 4, 4).long())",
        ONE,
    ),
}
CORRECT = {
    "transposed": "F.cross_entropy(logits.transpose(1, 2), ids % 5)",
    "flattened": "F.cross_entropy(longer.view(-1, 5), long.view(-1) % 5)",
    "pixels": "F.cross_entropy(pixels, torch.randint(3, (2, 6, 6)))",
    "pixels, moved": "F.cross_entropy(pixels.permute(0, 2, 3, 1).reshape(-1, 3), torch.randint(3, (72,)))",
    "a layer over time": "F.cross_entropy(layer(torch.nn.Conv1d(2, 5, 1)(torch.randn(4, 2, 8))), ids % 5)",
    "a layer over time of moved classes": "F.cross_entropy(torch.nn.Linear(5, 5)(logits.transpose(1, 2)), ids % 5)",
    "soft": "F.cross_entropy(longer.transpose(1, 2), F.one_hot(long % 5, 5).float().transpose(1, 2))",
    "outputs as steps and classes": (
        "F.cross_entropy(torch.nn.Linear(8, 15)(torch.randn(4, 8)).view(4, 5, 3), torch.randint(5, (4, 3)))"
    ),
    "there and back": "F.cross_entropy(longer.view(4, 5, 7).view(4, 7, 5).transpose(1, 2), long % 5)",
    "pairs of tokens": "h = embedding(ids); F.cross_entropy(h @ h.transpose(1, 2), ids % 5)",
    "queries over places": (
        "F.cross_entropy(torch.nn.Conv1d(1, 6, 1)(torch.randn(4, 1, 6)).view(24, 6), torch.randint(6, (24,)))"
    ),
    "one step": "F.cross_entropy(longer[:, :1].reshape(4, 5), long[:, 0] % 5)",
    "one sample against itself": "h = layer(torch.randn(1, 8)); F.cross_entropy(h @ h.T, torch.arange(1))",
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    statement, rule = MISTAKEN[name]
    assert found(examined(HEAD + statement, only=(LAYOUT, VIEW, ONE, "target-dtype-or-shape"))) == [(rule, 6)]


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=(LAYOUT, VIEW, ONE, "target-dtype-or-shape"))
    assert not report.findings, str(report)


def test_it_is_proved_where_the_positions_are_known_and_likely_where_not() -> None:
    proved = examined(HEAD + "F.cross_entropy(logits, ids % 5)", only=(LAYOUT,)).findings[0]
    likely = examined(HEAD + "F.cross_entropy(layer(torch.randn(4, 5, 8)), ids % 5)", only=(LAYOUT,)).findings[0]
    assert (proved.certainty, likely.certainty) == ("proof", "signature")


def test_both_shapes_of_a_view_are_named() -> None:
    (finding,) = examined(HEAD + "F.cross_entropy(longer.view(4, 5, 7), long % 5)", only=(VIEW,)).findings
    assert "(4, 5, 7) of (4, 7, 5)" in finding.message


def test_torchs_error_is_there_with_the_cause() -> None:
    (finding,) = examined(HEAD + "F.cross_entropy(longer, long % 5)", only=(LAYOUT,)).findings
    assert finding.raised == "RuntimeError: Expected target size [4, 5], got [4, 7]"
    assert finding.values["classes"] == 5
    assert "input.transpose(1, 2)" in finding.fix
