"""A softmax over another dim than the classes; losses that normalise columns on purpose."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
tokens, tags = model(torch.randn(4, 6, 8)), torch.randint(10, (4, 6))
"""
RULE = "softmax-wrong-dim"
MISTAKEN = {
    "log_softmax over the batch": "F.nll_loss(model(x).log_softmax(0), y)",
    "no graph": "F.nll_loss(model(x).log_softmax(0).detach(), y)",
    "softmax over the batch, cross_entropy": "F.cross_entropy(model(x).softmax(0), y)",
    "the same, no graph": "F.cross_entropy(model(x).softmax(0).detach(), y)",
    "over the tokens": "F.nll_loss(tokens.log_softmax(1).transpose(1, 2), tags)",
    "over the tokens, flat, no graph": "F.nll_loss(tokens.log_softmax(1).transpose(1, 2).detach(), tags)",
}
CORRECT = {
    "over the classes": "F.nll_loss(model(x).log_softmax(1), y)",
    "over the classes, no graph": "F.nll_loss(model(x).log_softmax(1).detach(), y)",
    "then moved": "F.nll_loss(tokens.log_softmax(2).transpose(1, 2), tags)",
    "then flattened": "F.nll_loss(tokens.log_softmax(-1).view(-1, 10), tags.view(-1))",
    "a transposed table": "F.nll_loss((model.weight @ x.T).log_softmax(0).T, y)",
    "columns of a square table": "s = x @ x.T; F.nll_loss(s.log_softmax(0), torch.arange(32))",
    "the same with a graph": "h = model(x); F.nll_loss((h @ h.T).log_softmax(0), torch.arange(32))",
    "both in turn": "F.nll_loss(model(x).log_softmax(1).log_softmax(0), y)",
    "logits of zeros": "F.cross_entropy(torch.zeros(1, 10), y[:1])",
    "one-hot logits": "F.cross_entropy(torch.eye(10), torch.randint(10, (10,)))",
    "one row": "F.nll_loss(model(x[0]).log_softmax(0), y[0])",
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    assert found(examined(HEAD + MISTAKEN[name], only=(RULE,))) == [(RULE, 6)]


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=(RULE,))
    assert not report.findings, str(report)


def test_the_dim_of_the_users_code_is_named() -> None:
    (finding,) = examined(HEAD + MISTAKEN["over the tokens"], only=(RULE,)).findings
    assert finding.values["dim"] == 2
    assert "dim 1 where it was taken" in finding.proof


def test_a_log_softmax_over_the_batch_is_seen_in_the_graph_alone() -> None:
    import torch

    import xent

    logits = torch.randn(5, 3, requires_grad=True) * 1
    report = xent.check(torch.nn.functional.nll_loss(logits.log_softmax(0), torch.tensor([0, 1, 2, 0, 1])))
    assert [finding.rule for finding in report.findings] == [RULE]
