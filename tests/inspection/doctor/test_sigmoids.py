"""Sigmoids where logits belong and logits where a sigmoid belongs; what only looks like it."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
model, head = torch.nn.Linear(8, 10), torch.nn.Linear(8, 1)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
b = torch.randint(2, (32, 1)).float()
"""
RULES = ("sigmoid-before-cross-entropy", "sigmoid-twice", "logits-into-bce")
MISTAKEN = {
    "sigmoid, CE": ("F.cross_entropy(model(x).sigmoid(), y)", RULES[0]),
    "sigmoid, view, CE": ("F.cross_entropy(model(x).sigmoid().view(4, 8, 10).flatten(0, 1), y)", RULES[0]),
    "sigmoid, CE, no graph": ("F.cross_entropy(model(x).sigmoid().detach(), y)", RULES[0]),
    "sigmoid, BCE with logits": ("F.binary_cross_entropy_with_logits(head(x).sigmoid(), b)", RULES[1]),
    "sigmoid, squeeze": ("F.binary_cross_entropy_with_logits(head(x).sigmoid().squeeze(1), b[:, 0])", RULES[1]),
    "sigmoid, no graph": (
        "F.binary_cross_entropy_with_logits((8 * torch.linspace(-1, 1, 32)[:, None]).sigmoid(), b)",
        RULES[1],
    ),
    "logits that fit": ("F.binary_cross_entropy(0.01 * head(x) + 0.5, b)", None),
    "a layer that fits": (
        "head.weight.data.zero_(); head.bias.data.fill_(0.5); F.binary_cross_entropy(head(x), b)",
        RULES[2],
    ),
    "logits refused": ("F.binary_cross_entropy(10 * torch.randn(32, 1), b)", RULES[2]),
}
CORRECT = {
    "logits": "F.cross_entropy(model(x), y)",
    "a temperature": "F.cross_entropy(20 * model(x).sigmoid(), y)",
    "the log of a sigmoid": "F.cross_entropy(model(x).sigmoid().log(), y)",
    "cosines": "F.cross_entropy((F.normalize(x.abs()) @ F.normalize(model.weight.abs()).T), y)",
    "logits near 0.3": "F.cross_entropy(torch.full((32, 10), 0.3) + 0.1 * torch.rand(32, 10), y)",
    "a softmax over the batch, no graph": "F.cross_entropy(model(x[:4]).mul(3).softmax(0).detach(), y[:4])",
    "some logits": "F.binary_cross_entropy_with_logits(torch.rand(32, 1) * 0.5, b)",
    "a sigmoid for BCE": "F.binary_cross_entropy(head(x).sigmoid(), b)",
    "a mixture of probabilities": "F.binary_cross_entropy(torch.randn(32, 4).softmax(1) @ torch.rand(4, 1), b)",
    "a learned mixture": "F.binary_cross_entropy(x.softmax(1) @ torch.nn.Parameter(torch.rand(8, 1)), b)",
    "rounding": "F.binary_cross_entropy_with_logits(head(x), b + 1e-6)",
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    statement, rule = MISTAKEN[name]
    assert found(examined(HEAD + statement, only=RULES)) == ([(rule, 6)] if rule else [])


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=(*RULES, "bce-target-outside-0-1"))
    assert not report.findings, str(report)


def test_without_a_graph_it_is_suspected_only() -> None:
    (finding,) = examined(HEAD + MISTAKEN["sigmoid, CE, no graph"][0], only=RULES).findings
    assert (finding.severity, finding.certainty) == ("warning", "heuristic")
    assert "innocent" in finding.message


def test_the_floors_are_those_of_the_best_model() -> None:
    """ln(1 + 9/e) and the mean of softplus(−1) and ln 2, to the four digits that are printed."""
    (finding,) = examined(HEAD + "F.cross_entropy(model(x).sigmoid(), y)", only=RULES).findings
    assert "1.461" in finding.message
    balanced = "F.binary_cross_entropy_with_logits(head(x).sigmoid(), (torch.arange(32) % 2).float()[:, None])"
    (finding,) = examined(HEAD + balanced, only=RULES).findings
    assert finding.values["floor"] == pytest.approx(0.50320, abs=1e-5)


def test_torchs_error_is_there_with_the_cause() -> None:
    (finding,) = examined(HEAD + "F.binary_cross_entropy(10 * x[:, :1], b)", only=RULES).findings
    assert finding.raised.startswith("RuntimeError: all elements of input")
    assert finding.values["min"] < 0 < 1 < finding.values["max"]
