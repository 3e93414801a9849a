"""Did the step do what its gradient promised: predicted ΔL = Σ g·Δθ against the loss of the same batch after it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()


def promise_of(lr: float, kind=torch.optim.SGD):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)).double()
    optimizer = kind(model.parameters(), lr=lr)
    with xent.step(model, optimizer, closure=lambda: F.cross_entropy(model(X.double()), Y)) as ledger:
        F.cross_entropy(model(X.double()), Y).backward()
        optimizer.step()
    return ledger


def test_small_steps_keep_their_promise_and_long_ones_do_not():
    """The catalogue has 0.99, 0.71, 0.07 and −3.7 at lr 0.01, 0.5, 5 and 50 on one MLP; no lr is wrong by itself."""
    ratios = [promise_of(lr).promise.ratio for lr in (0.01, 0.5, 5, 50)]
    assert ratios == sorted(ratios, reverse=True)
    assert 0.97 < ratios[0] < 1
    assert 0.5 < ratios[1] < 0.95
    assert ratios[2] < 0.5
    assert ratios[3] < 0
    assert promise_of(1e-5).promise.ratio == pytest.approx(1, abs=1e-4)
    shown = " ".join(str(promise_of(50)).split())
    assert "the other way: the step is longer than its gradient holds" in shown


def test_the_promise_is_split_by_layer():
    ledger = promise_of(0.5)
    layers = {layer["layer"]: layer for layer in ledger.promise.layers}
    assert list(layers) == ["0", "2"]
    assert sum(layer["predicted"] for layer in layers.values()) == pytest.approx(ledger.promise.predicted, rel=1e-12)
    squares = sum(float((a.gradient**2).sum()) for a in ledger.accounts if a.name.startswith("2."))
    assert layers["2"]["predicted"] == pytest.approx(-0.5 * squares, rel=1e-12)
    assert sum(layer["share"] for layer in layers.values()) == pytest.approx(1)
    assert str(ledger.by_layer()).startswith("by layer")


def test_the_promise_is_that_of_the_raw_gradient():
    """Clipping shortens the step; what the loss promises is still its own gradient times the move."""
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
        raw = [p.grad.clone() for p in model.parameters()]
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    by_hand = sum(float((g.double() * a.update.double()).sum()) for g, a in zip(raw, ledger.accounts, strict=True))
    assert ledger.promise.predicted == pytest.approx(by_hand, rel=1e-12)


def test_dropout_drops_the_same_and_buffers_are_put_back():
    """With lr 0 the loss after the step is the loss before, bit for bit, only if the masks are the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def run(closure):
        torch.manual_seed(5)
        torch.rand(3)  # the block draws before its forward pass
        with xent.step(model, optimizer, closure=closure) as ledger:
            torch.randn(7)
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
        return ledger, torch.get_rng_state(), {name: b.clone() for name, b in model.named_buffers()}

    start = {name: b.clone() for name, b in model.named_buffers()}
    _, state, buffers = run(None)
    for name, buffer in model.named_buffers():
        buffer.copy_(start[name])
    ledger, state_measured, buffers_measured = run(lambda: F.cross_entropy(model(X), Y))
    assert ledger.promise.measured == 0.0
    assert torch.equal(state, state_measured)
    assert all(torch.equal(buffers[name], buffers_measured[name]) for name in buffers)
    assert int(buffers["1.num_batches_tracked"]) == 1
    assert model.training


def test_a_closure_that_fails_leaves_no_trace():
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fails():
        torch.rand(5)
        raise KeyError("mine")

    state = torch.get_rng_state()
    watching = xent.step(model, optimizer, closure=fails)
    watching.__enter__()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()
    with pytest.raises(KeyError, match="mine"):
        watching.__exit__(None, None, None)
    assert torch.equal(state, torch.get_rng_state())


def test_a_promise_below_the_digits_of_the_loss_has_no_ratio():
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    assert ledger.measure(lambda: F.cross_entropy(model(X), Y)).ratio is None
    assert "too small for the digits of the loss" in " ".join(str(ledger).split())
