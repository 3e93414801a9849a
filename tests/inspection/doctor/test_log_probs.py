"""Log-probabilities twice or missing; what is meant to be no log-probability."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
model = torch.nn.Linear(8, 10)
x, y = torch.randn(32, 8), torch.randint(10, (32,))
log_probs = model(x).log_softmax(1)
"""
RULES = ("log-softmax-twice", "nll-without-log-probs")
MISTAKEN = {
    "twice": ("F.cross_entropy(log_probs, y)", RULES[0]),
    "twice, rows picked": ("F.cross_entropy(log_probs[y > 4], y[y > 4])", RULES[0]),
    "logits": ("F.nll_loss(model(x), y)", RULES[1]),
    "logits without bias": ("F.nll_loss(x @ model.weight.T, y)", RULES[1]),
    "logits and a bias": ("F.nll_loss(x @ model.weight.T + model.bias, y)", RULES[1]),
    "a table of logits": ("F.nll_loss(torch.nn.Embedding(20, 10)(y), y)", RULES[1]),
    "probabilities": ("F.nll_loss(model(x).softmax(1), y)", RULES[1]),
    "logits, no graph": ("F.nll_loss(model(x).detach(), y)", RULES[1]),
    "probabilities, no graph": ("F.nll_loss(model(x).softmax(1).detach(), y)", RULES[1]),
}
CORRECT = {
    "log-probabilities": "F.nll_loss(log_probs, y)",
    "no graph": "F.nll_loss(log_probs.detach(), y)",
    "the log of a softmax": "F.nll_loss((model(x).softmax(1) + 1e-9).log(), y)",
    "by hand": "z = model(x); F.nll_loss(z - z.logsumexp(1, keepdim=True), y)",
    "focal": "F.nll_loss((1 - log_probs.exp()) ** 2 * log_probs, y)",
    "focal, no graph": "F.nll_loss(((1 - log_probs.exp()) ** 2 * log_probs).detach(), y)",
    "rewarded": "F.nll_loss(log_probs * torch.randn(32, 1), y)",
    "bfloat16": "F.nll_loss(log_probs.bfloat16().detach(), y)",
    "some classes of log-probabilities": "F.cross_entropy(log_probs[:, :5], y % 5)",
    "scaled": "F.cross_entropy(log_probs / 2, y)",
    "the log-sum-exp is added": "z = model(x); (F.nll_loss(z, y) + z.logsumexp(1).mean()).backward()",
    "added by exp": "z = model(x); (F.nll_loss(z, y) + z.exp().sum(1).log().mean()).backward()",
    "added to a view": "z = model(x); (F.nll_loss(z.view(-1, 10), y) + z.logsumexp(1).mean()).backward()",
    "a mixture": "F.nll_loss(torch.logaddexp(log_probs, x[:, :1] * 0 - 3).log_softmax(1), y)",
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    statement, rule = MISTAKEN[name]
    assert found(examined(HEAD + statement, only=RULES)) == [(rule, 6)]


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=RULES)
    assert not report.findings, str(report)


def test_proof_by_graph_signature_by_values() -> None:
    """Before backward() something may be added yet: nll_loss(x) + logsumexp(x) is the cross-entropy."""
    proved = examined(HEAD + "F.nll_loss(model(x), y).backward()", only=RULES).findings
    unfinished = examined(HEAD + "F.nll_loss(model(x), y)", only=RULES).findings
    likely = examined(HEAD + "F.nll_loss(model(x).detach(), y)", only=RULES).findings
    certainties = [[each.certainty for each in findings] for findings in (proved, unfinished, likely)]
    assert certainties == [["proof"], ["heuristic"], ["signature"]]


def test_one_value_that_something_was_added_to_is_no_proof() -> None:
    logits, y = torch.randn(4, 3) @ torch.nn.Linear(3, 3).weight.T, torch.tensor([0, 1, 2, 0])
    loss = F.nll_loss(logits, y)
    alone, whole = xent.check(loss).findings, xent.check(loss + logits.logsumexp(1).mean()).findings
    assert [[each.certainty for each in findings] for findings in (alone, whole)] == [["proof"], ["heuristic"]]


def test_the_sums_and_the_loss_are_the_users_own() -> None:
    """Rows of zeros: their ten exponentials sum to 10, and minus the logit of the target is 0."""
    zeros = "F.nll_loss(x @ (0 * model.weight.T) + model.bias, y)"
    assert not examined(HEAD + zeros, only=RULES).findings  # the factor is no parameter: what made it is unknown
    report = examined(
        HEAD + "model.weight.data.zero_(); model.bias.data.fill_(2.0); F.nll_loss(model(x), y)", only=RULES
    )
    values = report.findings[0].values
    assert values["least_sum"] == pytest.approx(10 * 7.38906, rel=1e-4)
    assert values["loss"] == pytest.approx(-2.0)
