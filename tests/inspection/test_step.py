"""What a ledger says of a block: clipping, scaling, accumulation, the sets, what happened outside the optimizer."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def mlp(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *extra, nn.Linear(5, 3))


def flat(ledger) -> str:
    """The receipt without its line breaks."""
    return " ".join(str(ledger).split())


def watched_step(model, optimizer, between=lambda: None, **options) -> xent.StepLedger:
    with xent.step(model, optimizer, **options) as ledger:
        F.cross_entropy(model(X), Y).backward()
        between()
        optimizer.step()
        optimizer.zero_grad()
    return ledger


def test_before_gradient_update_and_after_are_what_they_were():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        optimizer.step()
    for account, parameter, was, gradient in zip(ledger.accounts, model.parameters(), before, gradients, strict=True):
        assert torch.equal(account.before, was)
        assert torch.equal(account.gradient, gradient)
        assert torch.equal(account.after, parameter.detach())
        assert torch.equal(account.update, parameter.detach() - was)
    assert [account.name for account in ledger.accounts] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert ledger.accounts[0].record.gradient_at_exit == "kept"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # training goes on; the ledger keeps what it saw
    assert torch.equal(ledger.parameter("0.weight").before, before[0])
    assert ledger.equality.holds


def test_a_step_taken_apart():
    """SGD with everything, against the formula written out by hand in float64."""
    model = nn.Linear(2, 1, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True)
    for _ in range(2):
        theta, buffer = model.weight.detach().clone(), optimizer.state[model.weight].get("momentum_buffer")
        held = None if buffer is None else buffer.clone()
        with xent.step(model, optimizer) as ledger:
            optimizer.zero_grad()
            model(torch.tensor([[1.0, 3.0]], dtype=torch.float64)).sum().backward()
            optimizer.step()
    g = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    parts = ledger.parameter("weight").recomputed().parts()
    torch.testing.assert_close(parts["this gradient"], -0.1 * 1.9 * g)
    torch.testing.assert_close(parts["weight decay"], -0.1 * 1.9 * 0.5 * theta)
    torch.testing.assert_close(parts["earlier steps"], -0.1 * 0.81 * held)
    assert sum(part.share for part in ledger.parameter("weight").parts) == pytest.approx(1)
    names = [name for name, _, _ in ledger.parameter("weight").stages]
    assert names == ["g + λθ", "b", "g + μb", "step"]


def test_norm_clipping_is_read_from_the_gradients():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ledger = watched_step(model, optimizer, lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.01))
    change = ledger.optimizers[0].change
    assert change.kind == "scaled"
    assert change.norm_after == pytest.approx(0.01, rel=1e-4)
    assert change.value == pytest.approx(change.norm_after / change.norm_before, rel=1e-5)
    account = ledger.parameter("0.weight")
    torch.testing.assert_close(account.raw_gradient * change.value, account.gradient, rtol=1e-5, atol=0)
    assert "as clip_grad_norm_(…, 0.01) would" in flat(ledger)
    assert ledger.equality.holds


def test_value_clipping_is_read_from_the_gradients():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ledger = watched_step(model, optimizer, lambda: nn.utils.clip_grad_value_(model.parameters(), 0.02))
    change = ledger.optimizers[0].change
    assert (change.kind, round(change.value, 8)) == ("clamped", 0.02)
    raw = torch.cat([account.raw_gradient.flatten() for account in ledger.accounts])
    assert change.changed == int((raw.abs() > 0.02).sum())


def test_clipping_that_clips_nothing_and_another_change():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert (
        watched_step(model, optimizer, lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e6)).optimizers[0].change
        is None
    )

    def noise():
        model[0].weight.grad.add_(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))

    ledger = watched_step(model, optimizer, noise)
    assert ledger.optimizers[0].change.kind == "other"
    assert ledger.optimizers[0].change.changed == 20


def test_accumulation_and_a_gradient_that_was_not_cleared():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        optimizer.zero_grad()
        for rows in (slice(0, 6), slice(6, 12)):
            (F.cross_entropy(model(X[rows]), Y[rows]) / 2).backward()
        optimizer.step()
    assert ledger.accounts[0].record.backwards == 2
    assert len(ledger.losses.values) == 2
    assert not ledger.accounts[0].record.onto_old
    assert "2 backward passes added up" in str(ledger)
    in_place = {"set_to_none": False}
    for clear, old in ((None, True), ({}, False), (in_place, False)):
        with xent.step(model, optimizer) as ledger:
            if clear is not None:
                optimizer.zero_grad(**clear)
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        assert ledger.accounts[0].record.onto_old == old
        assert ("backward added to a gradient of before the block" in flat(ledger)) == old


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(fused):
    """On the CPU; a fused optimizer unscales in its kernel, the others before step()."""
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with xent.step(model, optimizer) as ledger:
        loss = F.cross_entropy(model(X), Y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert ledger.optimizers[0].unscaled == 1024
    assert ledger.equality.holds
    assert ledger.optimizers[0].change is None
    assert ledger.promise.loss_before == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(ledger.accounts[0].raw_gradient, ledger.accounts[0].gradient)
    assert "GradScaler divided every gradient by 1024" in str(ledger)


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_that_leaves_a_step_out(fused):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with xent.step(model, optimizer) as ledger:
        scaler.scale(F.cross_entropy(model(X), Y) * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
    assert (ledger.steps, ledger.optimizers[0].skipped) == (0, 1)
    assert "GradScaler left out 1 step of Adam" in str(ledger)


def test_scaling_and_clipping_together():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    with xent.step(model, optimizer) as ledger:
        scaler.scale(F.cross_entropy(model(X), Y)).backward()
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), 0.01))
        scaler.step(optimizer)
    change = ledger.optimizers[0].change
    assert change.norm_before == pytest.approx(norm, rel=1e-5)
    assert change.value == pytest.approx(0.01 / (norm + 1e-6), rel=1e-5)


def test_only_a_part_of_the_block():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
    assert ledger.steps == 0
    assert "no step" in repr(ledger)
    assert ledger.parameter("0.bias").gradient is not None
    assert ledger.parameter("0.bias").update is None
    with xent.step(model, optimizer) as ledger:
        optimizer.step()
    assert ledger.equality.holds
    assert ledger.promise.predicted < 0
    assert ledger.promise.loss_before is None
    with xent.step(model, optimizer) as ledger:
        optimizer.zero_grad()
    assert ledger.accounts[0].record.gradient_at_exit == "None"
    for part in (ledger, ledger.accounts[0]):
        assert str(part)
        assert part._repr_html_()
        json.dumps(part.to_dict(), allow_nan=False)


def test_several_steps_show_the_last():
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert ledger.steps == 3
    assert ledger.accounts[0].record.taken.steps_before == 2
    assert ledger.equality.holds
    assert "3 steps of Adam in the block; the last one is shown" in str(ledger)


def test_several_optimizers_and_groups_with_options_of_their_own():
    model = mlp()
    one = torch.optim.SGD([{"params": [model[0].weight], "lr": 0.5}, {"params": [model[0].bias]}], lr=0.1)
    other = torch.optim.AdamW(model[2].parameters(), lr=0.01)
    with xent.step(model, [one, other]) as ledger:
        F.cross_entropy(model(X), Y).backward()
        one.step()
        other.step()
    assert ledger.equality.holds
    assert [account.record.optimizer for account in ledger.accounts] == [0, 0, 1, 1]
    assert ledger.parameter("0.weight").record.options["lr"] == 0.5
    assert "group 1: lr 0.1" in str(ledger)
    assert str(ledger).startswith("a step of SGD + step 1 of AdamW")


def test_the_three_sets():
    model = mlp()
    model.register_parameter("lost", nn.Parameter(torch.zeros(2)))
    model.register_parameter("frozen", nn.Parameter(torch.zeros(2), requires_grad=False))
    stray, extra = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([*model[0].parameters(), model.lost, extra], lr=0.1)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X) + stray + extra, Y).backward()
        optimizer.step()
    sets = ledger.sets
    assert sets.unreached == ("lost",)
    assert sets.unoptimized == ("2.weight", "2.bias")
    assert sets.unregistered == ("optimizer.groups[0][3]",)
    assert sets.strangers == ("a parameter of shape (3,)",)
    assert sets.frozen == ("frozen",)
    assert len(sets.reached) == 5
    shown = " ".join(str(ledger).split())
    assert "in no optimizer: 2.weight, 2.bias" in shown
    assert "reaches the loss, neither in the model nor in an optimizer: a parameter of shape (3,)" in shown


def test_a_loss_that_was_named():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        loss = ledger.loss(F.cross_entropy(model(X), Y))
        (8 * loss).backward()
        optimizer.step()
    assert ledger.losses.values == [loss.item()]
    assert len(ledger.sets.reached) == 4


def test_changes_outside_the_optimizer():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        model[0].weight.data.mul_(0.5)
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        with torch.no_grad():
            model[0].bias.add_(1)
        model[2].weight.data = model[2].weight.data.clone()
        model[2].bias = nn.Parameter(torch.zeros(3))
    notes = {account.name: " ".join(account.record.notes) for account in ledger.accounts}
    assert "before the step" in notes["0.weight"]
    assert "after the step" in notes["0.bias"]
    assert "storage was replaced" in notes["2.weight"]
    assert "another tensor in the model now; the optimizer still has the old one" in notes["2.bias"]
    assert ledger.equality.holds


def test_tied_parameters_have_all_their_names():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embedding"].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model["head"](model["embedding"](torch.tensor([0, 1]))), torch.tensor([1, 2])).backward()
        optimizer.step()
    assert ledger.parameter("head.weight") is ledger.parameter("embedding.weight")
    assert "embedding.weight = head.weight" in str(ledger)


def test_adams_first_step_and_its_exceptions():
    parameter = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.01, eps=1e-8)
    for first in (True, False):
        parameter.grad = torch.tensor([3.0, -1e-9, 1e-8, 0.0, -0.2], dtype=torch.float64)
        with xent.step(optimizer) as ledger:
            optimizer.step()
        assert (ledger.first_step is not None) == first
        if first:
            found = ledger.first_step
            assert (found.count, found.still, found.near, found.lr) == (5, 1, 2, 0.01)
            assert [round(record["in_eps"], 6) for record in found.records] == [0.1, 1.0]
            for record in found.records:
                moved = ledger.accounts[0].update[int(record["place"].strip("(,)"))]
                assert abs(float(moved)) == pytest.approx(0.01 * record["of_lr"], rel=1e-9)
            assert "1 entry with g = 0 stayed, 2 entries with |g| < 99 ε moved less" in " ".join(str(ledger).split())


def test_the_schedule_is_said():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.1
    assert "lr 0.1 (schedule: 0.25 × 0.4)" in str(watched_step(model, optimizer))


def test_models_that_are_named_parameters_or_left_out():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for given in (model.named_parameters(), dict(model.named_parameters()), list(model.named_parameters())):
        with xent.step(given, optimizer) as ledger:
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        assert ledger.accounts[0].name == "0.weight"
    for arguments in ((optimizer,), (None, optimizer), ([optimizer],)):
        with xent.step(*arguments) as ledger:
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        assert ledger.accounts[1].name == "optimizer.groups[0][1]"
        assert ledger.sets.registered is None
    named = torch.optim.SGD(model.named_parameters(), lr=0.1)
    with xent.step(named) as ledger:
        named.step()
    assert ledger.accounts[1].name == "0.bias"


def test_a_ledger_does_not_keep_the_model():
    model = mlp()
    ledger = watched_step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weight = weakref.ref(model[0].weight)
    del model
    gc.collect()
    assert weight() is None
    assert "equal" in str(ledger)
