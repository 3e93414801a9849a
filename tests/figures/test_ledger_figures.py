"""The weights, gradients and moves that notebooks 000 and 001 printed, each as a figure of a step ledger.

Notebook 000 dumps an LSTM's parameters before `backward()`, after it, after Adam's `step()` and after `zero_grad()`.
What its text holds of the dumps (26 weights with their gradient, 10 and 35 with their move alone) is made into
parameters, and the ledger of one step on them has to show the printed numbers. Notebook 001 prints 27 parameters of an
XOR network one hidden SGD step after its loss and gradient; the ledger of that step shows both sides of it.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import xent
from tests.figures.test_seed_figures import ENTRIES, FIGURES, step_undone, tensor, xor_parameters

NOTEBOOKS = FIGURES.parent / "user_notebooks"
if not NOTEBOOKS.exists():
    pytest.skip(f"{NOTEBOOKS} is not here: it lies beside the repository, not in it", allow_module_level=True)
LSTM = (NOTEBOOKS / ENTRIES[16]["seed"]).read_text(encoding="utf-8")
XOR = (NOTEBOOKS / ENTRIES[51]["seed"]).read_text(encoding="utf-8")
HALF = 0.5e-4  # of the last printed digit of a weight
INPUT = ENTRIES[16]["inputs"]
MOVED = ENTRIES[18]["inputs"]
HIDDEN = ENTRIES[19]["inputs"]


def printed(text: str, name: str, cell: str) -> list[float]:
    """The numbers of the tensor that a cell prints under a parameter's name, as far as the text goes."""
    after = text.split(f"In [{cell}]:")[1].split("\nIn [")[0].split(f"{name}\nData:\ntensor(")[1]
    return [float(one) for one in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", after.split("\n       device")[0])]


def printed_gradient(text: str, cell: str) -> list[float]:
    after = text.split(f"In [{cell}]:")[1].split("\nIn [")[0].split("Grad:\ntensor(")[1]
    return [float(one) for one in re.findall(r"-?\d\.\d{4}e[-+]\d\d", after)]


def adams_step(before, gradient) -> xent.StepLedger:
    """The ledger of the notebook's block on the printed numbers."""
    weight = nn.Parameter(torch.tensor(before))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    with xent.step([("lstm.weight_ih_l0", weight)], optimizer) as ledger:
        (weight * torch.tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return ledger


def column(ledger: xent.StepLedger, key: str) -> torch.Tensor:
    account = ledger.accounts[0]
    return tensor([record[key] for record in account.entries(n=account.record.count)])


def test_the_text_holds_what_the_entries_say():
    """36 printed places of one matrix before and after, 35 of another; the gradient's print breaks off after 26."""
    assert printed(LSTM, "lstm.weight_ih_l0", "37") == MOVED["before"]
    assert printed(LSTM, "lstm.weight_ih_l0", "39") == MOVED["before"]
    assert printed(LSTM, "lstm.weight_ih_l0", "42") == MOVED["after"]
    assert printed(LSTM, "lstm.weight_ih_l0", "44") == MOVED["after"]
    assert printed(LSTM, "lstm.weight_hh_l0", "37")[:35] == HIDDEN["before"]
    assert printed(LSTM, "lstm.weight_hh_l0", "44")[:35] == HIDDEN["after"]
    for cell in ("39", "42"):
        assert printed_gradient(LSTM, cell)[: len(INPUT["grad"])] == INPUT["grad"]


def test_every_printed_weight_gradient_and_move_of_the_lstm():
    ledger = adams_step(INPUT["weight"], INPUT["grad"])
    count = len(INPUT["weight"])
    assert count == len(ENTRIES[16]["expected"]) == 26
    torch.testing.assert_close(column(ledger, "before"), tensor(INPUT["weight"]), rtol=1e-6, atol=0)
    torch.testing.assert_close(column(ledger, "gradient"), tensor(INPUT["grad"]), rtol=1e-6, atol=0)
    tolerance = tensor(ENTRIES[16]["tolerance"])
    assert bool(((column(ledger, "after") - tensor(ENTRIES[16]["expected"])).abs() <= tolerance).all())
    assert (-column(ledger, "update")).sign().tolist() == ENTRIES[17]["expected"]
    made = ledger.accounts[0].recomputed().after.double()
    assert bool(((made - tensor(ENTRIES[16]["expected"])).abs() <= tolerance).all())
    assert ledger.equality.ulps == 0
    first = ledger.first_step
    assert (first.lr, first.count, first.still, first.near) == (0.01, 26, 0, 0)
    assert ledger.accounts[0].record.gradient_at_exit == "None"  # In[44] prints Grad: None


@pytest.mark.parametrize(("inputs", "count"), [(MOVED, 36), (HIDDEN, 35)], ids=["weight_ih_l0", "weight_hh_l0"])
def test_every_printed_move_is_that_of_its_gradients_sign(inputs, count):
    """Where no gradient is printed its sign is: Adam's first step moves by −0.01·sign(g), whatever the size of g.

    Both numbers are printed to four decimals, so their difference is known to twice half of the last.
    """
    before, after = tensor(inputs["before"]), tensor(inputs["after"])
    assert len(before) == count
    sign = (before - after).sign()
    ledger = adams_step(inputs["before"], (1e-3 * sign).tolist())
    assert bool(((column(ledger, "update") - (after - before)).abs() <= 2 * HALF).all())
    assert bool(((column(ledger, "after") - after).abs() <= 2 * HALF).all())
    assert bool(((column(ledger, "update").abs() - 0.01).abs() < 1e-6).all())
    assert ledger.equality.ulps == 0


def xor_network(parameters) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 5), nn.Sigmoid(), nn.Linear(5, 2), nn.Sigmoid()).double()
    with torch.no_grad():
        for own, given in zip(model.parameters(), parameters, strict=True):
            own.copy_(given)
    return model


def hidden_step() -> tuple[nn.Sequential, xent.StepLedger]:
    """In[290], which the notebook does not show: one SGD step from the parameters that its loss was made with."""
    model = xor_network(step_undone(xor_parameters(ENTRIES[51]["inputs"])))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    x, y = tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([0, 1, 1, 0])
    with xent.step(model, optimizer, closure=lambda: F.cross_entropy(model(x), y)) as ledger:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, ledger


def within(got, index: int) -> bool:
    entry = ENTRIES[index]
    return bool(((got.flatten() - tensor(entry["expected"])).abs() <= tensor(entry["tolerance"])).all())


def test_the_hidden_step_of_the_xor_network():
    model, ledger = hidden_step()
    inputs = ENTRIES[51]["inputs"]
    names = dict(zip(("W1", "b1", "W2", "b2"), ("0.weight", "0.bias", "2.weight", "2.bias"), strict=True))
    count = 0
    for key, name in names.items():
        after, shown = ledger.parameter(name).after, tensor(inputs[key])
        assert bool(((after - shown).abs() <= HALF).all())  # the 27 parameters of In[292]
        count += shown.numel()
        text = ledger.parameter(name).entries(n=shown.numel())
        assert tensor([record["after"] for record in text]).isfinite().all()
    assert count == 27
    assert within(ledger.parameter("0.weight").gradient, 57)  # In[288], printed before the step
    assert abs(ledger.promise.loss_before - 0.6954) <= HALF  # In[289]
    before = xor_network([ledger.parameter(name).before for name in names.values()])
    assert within(before(tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).detach(), 52)  # In[281]
    assert not within(model(tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).detach(), 51)  # not those after it
    assert ledger.equality.ulps == 0
    assert ledger.promise.ratio == pytest.approx(1, abs=0.01)


def test_undoing_the_step_is_adding_lr_times_the_gradient():
    """The ledger's own figures take the printed parameters back: before = after + 0.03·gradient."""
    _, ledger = hidden_step()
    for account in ledger.accounts:
        torch.testing.assert_close(account.after + 0.03 * account.gradient, account.before, rtol=0, atol=1e-15)
        assert [part.cause for part in account.parts] == ["this gradient"]


def test_printed_parameters_of_the_xor_notebook_are_those_of_the_entries():
    after = XOR.split("In [292]:")[1].split("\nIn [")[0]
    numbers = [float(one) for one in re.findall(r"-?\d+\.\d{4}", after)]
    inputs = ENTRIES[51]["inputs"]
    flat = [value for key in ("W1", "b1", "W2", "b2") for value in tensor(inputs[key]).flatten().tolist()]
    assert numbers == flat
    gradient = XOR.split("In [288]:")[1]
    assert [float(one) for one in re.findall(r"-?\d\.\d{4}e[-+]\d\d", gradient)] == ENTRIES[57]["expected"]
