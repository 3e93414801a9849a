"""Passes and steps in any order: each step has the gradient and the losses that were its own."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent
from xent.errors import OptionError

X, Y = torch.linspace(-1, 1, 48).reshape(12, 4), torch.arange(12) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def promised(raw: dict[str, Tensor], before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Σ g·Δθ by hand, in float64; the move is a float32 difference, as it is shown."""
    return sum(float((raw[name].double() * (after[name] - before[name]).double()).sum()) for name in before)


def test_a_pass_after_the_step_is_not_the_gradient_of_that_step():
    """In a GAN the generator's loss leaves gradients at the discriminator too, after its step."""
    torch.manual_seed(1)
    fake_of, judge = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    of_fake, of_judge = torch.optim.Adam(fake_of.parameters()), torch.optim.SGD(judge.parameters(), lr=0.1)
    real, noise, yes = torch.randn(6, 4), torch.randn(6, 2), torch.ones(6, 1)
    before = values(judge)
    loss_of = F.binary_cross_entropy_with_logits
    with xent.step(nn.ModuleDict({"G": fake_of, "D": judge}), [of_fake, of_judge]) as ledger:
        of_judge.zero_grad()
        fake = fake_of(noise)
        (loss_of(judge(real), yes) + loss_of(judge(fake.detach()), 1 - yes)).backward()
        raw = gradients(judge)
        of_judge.step()
        of_fake.zero_grad()
        loss_of(judge(fake), yes).backward()
        of_fake.step()
    accounts = [ledger.parameter(f"D.{name}") for name in before]
    assert all(torch.equal(one.raw_gradient, raw[name]) for one, name in zip(accounts, before, strict=True))
    by_hand = promised(raw, before, values(judge))
    assert sum(one.predicted for one in accounts) == pytest.approx(by_hand, rel=1e-12)  # float64 sums in another order
    assert "passes added up" not in str(ledger)


def test_a_step_at_the_beginning_of_the_block_keeps_its_own_gradient():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    F.cross_entropy(model(X), Y).backward()
    raw = gradients(model)
    with xent.step(model, optimizer) as ledger:
        optimizer.step()
        F.cross_entropy(model(X), Y).backward()  # onto the gradient that was stepped
    assert all(torch.equal(one.raw_gradient, raw[one.name]) for one in ledger.accounts)
    assert ledger.optimizers[0].change is None
    assert not any(one.record.onto_old for one in ledger.accounts)


def test_a_gradient_put_in_by_hand_is_no_change_of_an_old_one():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(X), Y).backward()
    before = values(model)
    with xent.step(model, optimizer) as ledger:
        found = torch.autograd.grad(F.cross_entropy(model(X), 2 - Y), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), found, strict=True):
            parameter.grad = gradient
        raw = gradients(model)
        optimizer.step()
    assert ledger.optimizers[0].change is None
    assert ledger.promise.predicted == pytest.approx(promised(raw, before, values(model)), rel=1e-12)


@pytest.mark.parametrize("to_none", [True, False])
def test_of_several_steps_the_last_has_its_own_loss_and_passes(to_none: bool):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with xent.step(model, optimizer, closure=lambda: F.cross_entropy(model(X), Y)) as ledger:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            optimizer.step()
    assert ledger.losses.values == [loss.item()]
    assert ledger.promise.measured == pytest.approx(F.cross_entropy(model(X), Y).item() - loss.item(), rel=1e-12)
    assert "3 steps of SGD in the block" in str(ledger)
    assert "passes added up" not in str(ledger)


def test_two_optimizers_that_step_in_turn_on_every_loss():
    model = net()
    both = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[2])]
    with xent.step(model, both) as ledger:
        for _ in range(2):
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
    assert ledger.losses.values == [loss.item()]


def test_accumulated_passes_are_still_counted():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer) as ledger:
        for part in range(3):
            (F.cross_entropy(model(X[part::3]), Y[part::3]) / 3).backward()
        optimizer.step()
    assert "3 backward passes added up in one gradient" in str(ledger)
    assert len(ledger.losses.values) == 3


def test_lbfgs_is_shown_with_the_loss_and_the_gradient_that_it_began_with():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    start = F.cross_entropy(model(X), Y)
    raw = dict(zip(values(model), torch.autograd.grad(start, list(model.parameters())), strict=True))
    before = values(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    with xent.step(model, optimizer, closure=lambda: F.cross_entropy(model(X), Y)) as ledger:
        optimizer.step(closure)
    assert ledger.losses.values == [start.item()]
    assert ledger.promise.predicted == pytest.approx(promised(raw, before, values(model)), rel=1e-12)
    assert ledger.promise.measured == pytest.approx(F.cross_entropy(model(X), Y).item() - start.item(), rel=1e-12)


class FailsOnce(torch.optim.SGD):
    has_failed = False

    def step(self, closure=None):
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("out of memory")
        return super().step(closure)


def test_a_step_after_one_that_failed_is_seen():
    model = net()
    optimizer = FailsOnce(model.parameters(), lr=0.1)
    F.cross_entropy(model(X), Y).backward()
    with xent.step(model, optimizer) as ledger:
        with pytest.raises(RuntimeError, match="out of memory"):
            optimizer.step()
        optimizer.step()
    assert ledger.steps == 1
    assert all(one.stepped for one in ledger.accounts)


def test_a_model_can_be_copied_and_saved_in_the_block():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with xent.step(model, optimizer):
        F.cross_entropy(model(X), Y).backward()
        twin, file = copy.deepcopy(model), io.BytesIO()
        torch.save(model, file)
    assert torch.equal(twin(X), model(X))
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), model(X))
    assert b"xent" not in file.getvalue()


def test_a_lazy_layer_without_a_batch_gets_a_sentence():
    model = nn.Sequential(nn.LazyLinear(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for watched in (lambda: xent.step(model, optimizer), lambda: xent.watch(model, optimizer)):
        with pytest.raises(OptionError, match=r"0\.weight has no shape yet.*call the model once before"):
            watched()


def test_parameters_that_an_optimizer_gets_in_the_block():
    model = net()
    optimizer = torch.optim.Adam(model[2].parameters(), lr=0.01)
    with xent.step(model, optimizer) as ledger:
        F.cross_entropy(model(X), Y).backward()
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.001})
        optimizer.step()
    assert not any(one.record.notes or one.unknown for one in ledger.accounts)
    assert [one.equality.ulps for one in ledger.accounts] == [0.0] * 4
    assert len(ledger.sets.optimized) == 4
