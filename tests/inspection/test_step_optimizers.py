"""Closures, optimizers of others, hooks, sparse and complex numbers: what is taken apart and what is only shown."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent
from tests.inspection.test_step import X, Y, mlp, watched_step


def test_closures():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    for call in (lambda: optimizer.step(closure), lambda: optimizer.step(closure=closure)):
        with xent.step(model, optimizer) as ledger:
            returned = call()
        assert ledger.equality.holds
        assert returned.item() == ledger.promise.loss_before
    lbfgs = torch.optim.LBFGS(model.parameters())
    with xent.step(model, lbfgs) as ledger:
        lbfgs.step(closure)
    assert ledger.equality is None
    assert ledger.parameter("0.weight").update is not None
    assert "the formula of LBFGS is not known: showing data only" in str(ledger)


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.add_(p.grad.sign(), alpha=-group["lr"])


class Louder(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.data.mul_(2)


class Plain(torch.optim.SGD):
    """A subclass that leaves the step alone."""


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Lion, "the formula of Lion is not known"), (Louder, "Louder has a step of its own, not SGD's"), (Plain, "")],
)
def test_optimizers_of_others_show_data_only(kind, words):
    model = mlp()
    ledger = watched_step(model, kind(model.parameters(), lr=0.1))
    assert (ledger.equality is None) == bool(words)
    assert ledger.accounts[0].unknown == words
    assert f"{words}: showing data only" in str(ledger) or not words
    assert ledger.accounts[0].update is not None
    assert ledger.steps == 1
    assert torch.equal(ledger.accounts[0].after, model[0].weight.detach())


def test_a_hook_that_moves_parameters_after_the_step_is_found():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: model[0].weight.data.clamp_(-0.1, 0.1))
    ledger = watched_step(model, optimizer)
    assert not ledger.equality.holds
    assert not ledger.parameter("0.weight").equality.holds
    assert ledger.parameter("2.weight").equality.holds
    assert "1 parameter NOT EQUAL" in str(ledger)
    assert ledger.parameters(n=1).records[0]["parameter"] == "0.weight"


def test_sparse_gradients_and_complex_parameters_show_data_only():
    embedding = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    with xent.step(embedding, optimizer) as ledger:
        embedding(torch.tensor([1, 1, 7])).sum().backward()
        optimizer.step()
    account = ledger.parameter("weight")
    assert account.unknown == "the gradient is sparse"
    assert account.summaries["gradient"].zeros == pytest.approx(0.8)
    torch.testing.assert_close(account.predicted, -0.1 * (4 * 3 + 3))
    assert account.entries([(1, 0)]).records[0]["gradient"] == 2.0
    turn = nn.Parameter(torch.randn(4, dtype=torch.complex64))
    optimizer = torch.optim.Adam([turn], lr=0.1)
    with xent.step([("turn", turn)], optimizer) as other:
        (turn.abs() ** 2).sum().backward()
        optimizer.step()
    assert other.parameter("turn").unknown == "the parameter is complex"
    for one in (ledger, other):
        assert str(one)
        assert str(one.accounts[0])
        json.dumps(one.to_dict(), allow_nan=False)
