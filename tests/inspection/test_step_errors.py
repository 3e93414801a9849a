"""Errors of `xent.step` and of a ledger say what they got, what they need and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent
from tests.inspection.test_step import X, Y, mlp, watched_step
from xent.errors import DtypeError, NotExplained, OptionError, ShapeError

ERRORS = [
    (lambda m, o: xent.step(3, o), DtypeError, "model is int; a step is watched for a module or for named parameters"),
    (lambda m, o: xent.step([1], o), DtypeError, "an iterable of int"),
    (lambda m, o: xent.step({"a": 3}, o), DtypeError, "'a' with a int"),
    (lambda m, o: xent.step(m, "adam"), DtypeError, "optimizer is str; a step is that of a torch.optim.Optimizer"),
    (lambda m, o: xent.step(nn.Tanh()), OptionError, "there is no parameter to watch"),
    (lambda m, o: watched_step(m, o).parameter("1.weight"), OptionError, "no such name: pass one such as 0.weight"),
    (lambda m, o: watched_step(m, o).parameters("best"), OptionError, "pass 'worst' or 'first'"),
    (lambda m, o: watched_step(m, o).parameters(n=-1), OptionError, "n=-1"),
    (lambda m, o: watched_step(m, o).accounts[0].entries([(9, 9)]), OptionError, r"it has shape \(5, 4\)"),
    (lambda m, o: watched_step(m, o).accounts[0].entries([3]), OptionError, "one index for each dimension"),
    (lambda m, o: watched_step(m, o).loss(3.0), OptionError, "loss is float"),
    (
        lambda m, o: watched_step(m, o).measure(lambda: model_output(m)),
        ShapeError,
        "the closure gave a tensor of shape",
    ),
    (
        lambda m, o: watched_step(m, torch.optim.Rprop(m.parameters())).accounts[0].recomputed(),
        NotExplained,
        "formula of Rprop",
    ),
]


def model_output(model):
    return model(X)


@pytest.mark.parametrize(("call", "error", "words"), ERRORS)
def test_errors(call, error, words):
    model = mlp()
    with pytest.raises(error, match=words):
        call(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_errors_of_measuring():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def again():
        return F.cross_entropy(model(X), Y)

    with pytest.raises(OptionError, match="no step in the block"), xent.step(model, optimizer, closure=again):
        again().backward()
    with xent.step(model, optimizer) as ledger:
        optimizer.step()
    with pytest.raises(OptionError, match="no loss was seen before the step"):
        ledger.measure(again)
    ledger = watched_step(model, optimizer)
    model[0].weight.data.add_(1)
    with pytest.raises(OptionError, match=r"0.weight is no longer what the step left"):
        ledger.measure(again)
