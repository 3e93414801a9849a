"""Watching a step changes nothing: parameters, gradients, optimizer state, random state, hooks, torch's functions."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4
OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "Adam": {"amsgrad": True},
    "AdamW": {"fused": True},
    "RMSprop": {"centered": True, "foreach": True},
    "Adagrad": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "Rprop": {},
}


def trained(name: str, watch: bool, scaler: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.GELU(), nn.Linear(9, 4))
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **OPTIMIZERS[name])
    amp = torch.amp.GradScaler("cpu", enabled=scaler)
    for _ in range(4):

        def block():
            loss = F.cross_entropy(model(X), Y)
            amp.scale(loss / 2).backward()
            amp.scale(F.cross_entropy(model(X), Y) / 2).backward()
            amp.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            amp.step(optimizer)
            amp.update()

        if watch:
            with xent.step(model, optimizer, closure=lambda: F.cross_entropy(model(X), Y)) as ledger:
                block()
            str(ledger), ledger.to_dict(), ledger._repr_html_()
        else:
            block()
        gradients = [p.grad.clone() for p in model.parameters()]
        optimizer.zero_grad()
    return model.state_dict(), gradients, copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()


def leaves(thing) -> list:
    if isinstance(thing, dict):
        return [leaf for key in thing for leaf in [key, *leaves(thing[key])]]
    if isinstance(thing, list | tuple):
        return [leaf for one in thing for leaf in leaves(one)]
    return [thing]


@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_the_same_bit_for_bit(name, scaler):
    plain, watched = leaves(trained(name, False, scaler)), leaves(trained(name, True, scaler))
    assert len(plain) == len(watched) > 30
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def hooks_of(model, optimizer) -> tuple:
    return (
        [len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()],
        len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks),
        len(model._forward_pre_hooks), torch.autograd.backward, torch.amp.GradScaler.step,
        torch.amp.GradScaler.unscale_,
    )  # fmt: skip


def test_hooks_are_removed_after_the_block_and_after_an_error():
    model = nn.Linear(6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    before = hooks_of(model, optimizer)
    with xent.step(model, optimizer) as ledger:
        assert hooks_of(model, optimizer) != before
        assert "still open" in repr(ledger)
        assert "the block is not over yet" in str(ledger)
    assert hooks_of(model, optimizer) == before
    with contextlib.suppress(KeyError), xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
        raise KeyError("mine")
    assert hooks_of(model, optimizer) == before
    assert "no step" in repr(ledger)
    assert ledger.parameter("weight").gradient is not None


def test_blocks_inside_one_another():
    model = nn.Linear(6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    before = hooks_of(model, optimizer)
    with xent.step(model, optimizer) as outer:
        F.cross_entropy(model(X), Y).backward()
        with xent.step(model, optimizer) as inner:
            optimizer.step()
    assert hooks_of(model, optimizer) == before
    assert outer.equality.holds
    assert inner.equality.holds


def test_a_step_that_fails_and_is_taken_again():
    model = nn.Linear(6, 4)
    optimizer = torch.optim.Adam(model.parameters())

    def fails():
        raise KeyError("mine")

    with xent.step(model, optimizer) as ledger:
        with pytest.raises(KeyError, match="mine"):
            optimizer.step(fails)
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    assert ledger.steps == 1
    assert ledger.equality.holds


@pytest.mark.parametrize(("name", "times"), [("SGD", 3), ("Adam", 5)])
def test_a_ledger_holds_no_more_than_the_page_says(name, times):
    """Before, gradient, after, and two moments with Adam; the scalar that counts Adam's steps is the slack."""
    model = nn.Linear(100, 50, bias=False)
    frozen = nn.Linear(500, 500).requires_grad_(False)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    for _ in range(2):
        with xent.step(nn.Sequential(model, frozen), optimizer) as ledger:
            model(torch.ones(2, 100)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    held = {}
    for account in ledger.accounts:
        record = account.record
        for tensor in (record.raw, record.gradient, record.before, record.after, *record.state.values()):
            if isinstance(tensor, torch.Tensor):
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    size = model.weight.nbytes
    assert times * size <= sum(held.values()) <= times * size + 8


@pytest.mark.slow
def test_a_compiled_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters())
    with xent.step(compiled, optimizer, closure=lambda: F.cross_entropy(compiled(X), Y)) as ledger:
        F.cross_entropy(compiled(X), Y).backward()
        optimizer.step()
    assert ledger.equality.holds
    assert ledger.promise.ratio is not None
    assert ledger.accounts[0].name == "_orig_mod.0.weight"
