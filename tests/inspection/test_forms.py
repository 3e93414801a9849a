"""Every way to write a loss is read from its graph: value, rows, gradient and the cell that reproduces it.

Gradients are compared with autograd's of the same loss, within float32's rounding of the latter: 1e-6 of numbers
up to 1.
"""

from __future__ import annotations

import pytest
import torch

import xent
from tests.edge_cases import BACKENDS_HERE
from tests.inspection.written_losses import OF_XENT, OPTIONS, WRITTEN, Y, logits

CASES = [pytest.param("auto", case, id=str(case)) for case in WRITTEN]
CASES += [pytest.param(name, case, id=f"{name}-{case}") for name in BACKENDS_HERE for case in OF_XENT]
NEAR = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize(("backend", "case"), CASES)
def test_a_loss_is_read(backend, case):
    x = logits()
    with xent.backend(backend):
        loss = case.loss(x)
        explanation = xent.explain(loss)
    assert explanation.equality.holds, str(explanation)
    if case.heading is not None:
        assert str(explanation).splitlines()[0].startswith(case.heading) or explanation.rests, str(explanation)
    if case.gradient:
        wanted = torch.autograd.grad(loss.sum(), x)[0]
        assert_gradient(explanation, wanted)
    for number, term in enumerate(explanation.terms):
        namespace = explanation.tensors(term=number)
        exec(explanation.code(term=number), namespace)
        made = float(namespace["loss"].sum())
        assert made == pytest.approx(term.value, rel=1e-6, abs=1e-9), explanation.code(term=number)


def assert_gradient(explanation, wanted):
    (term,) = explanation.terms
    found = torch.zeros_like(wanted, dtype=torch.float64).reshape(-1)
    rows = explanation.gradient().of_rows(torch.arange(term.num_rows))
    if term.is_binary:
        torch.testing.assert_close(rows, wanted.double().reshape(-1), **NEAR)
        return
    order = torch.arange(wanted.numel()).reshape(wanted.shape)
    if len(rows) < len(wanted) and term.num_rows == 4:  # next-token rows: all but the last of each sequence
        order = order.view(2, 3, -1)[:, :-1].reshape(4, -1)
    found[order[: len(rows)].reshape(-1)] = rows.reshape(-1)
    torch.testing.assert_close(found.reshape(wanted.shape), wanted.double(), **NEAR)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_every_option_of_xent_is_read(backend, options):
    """From the graph on each backend, and from the arguments: the same value, equal to the loss to 2 ulp."""
    x = logits()
    options = {name: value for name, value in options.items() if name != "ignore_index" or value is not None}
    with xent.backend(backend):
        loss = xent.cross_entropy(x, Y, **options)
        read = xent.explain(loss)
        given = xent.explain(x, Y, **options)
        head = xent.explain(x, Y, linear_weight=torch.eye(5), **options)
    for explanation in (read, given, head):
        assert explanation.equality.holds, str(explanation)
        assert explanation.nats == pytest.approx(float(loss.detach()), rel=1e-6)
    wanted = torch.autograd.grad(loss, x)[0].double()
    for explanation in (given, head):
        torch.testing.assert_close(explanation.gradient().of_rows(torch.arange(6)), wanted, **NEAR)
        namespace = explanation.tensors()
        exec(explanation.code(), namespace)
        assert float(namespace["loss"]) == pytest.approx(explanation.nats, rel=1e-6)


def test_rows_sum_to_the_value():
    explanation = xent.explain(WRITTEN[0].loss(logits()))
    (term,) = explanation.terms
    surprisal = -logits().detach().double().log_softmax(1)[torch.arange(6), Y]
    torch.testing.assert_close(term.surprisal, surprisal, rtol=0, atol=1e-6)  # the graph holds ln p in float32
    assert term.total / 6 == pytest.approx(explanation.nats, rel=1e-15)


def test_logits_behind_a_linear_layer_are_read():
    layer, x = torch.nn.Linear(5, 3), logits()
    out = layer(x)
    records = xent.explain(torch.nn.functional.cross_entropy(out, Y % 3)).rows("first", 6)
    wanted = out.detach()[torch.arange(6), Y % 3].tolist()
    assert [record["logit"] for record in records] == pytest.approx(wanted, abs=1e-6)


def test_a_loop_of_many_steps():
    """Deeper than Python's recursion goes: a recurrent model adds the losses of its steps."""
    weight, total = torch.ones(5, 4).requires_grad_(), 0.0
    for step in range(1200):
        total = total + torch.nn.functional.cross_entropy(torch.full((1, 4), step / 1200) @ weight.T, Y[step % 6][None])
    explanation = xent.explain(total / 1200)
    assert explanation.equality.explained  # torch's sum of 1200 float32 numbers, one by one, is some ulp off
    assert repr(explanation).startswith("<Explanation: cross_entropy · mean over 1,200 rows · 5 classes: 1.609")


def test_sum_of_two_losses_is_two_terms():
    explanation = xent.explain(next(case for case in WRITTEN if case.name == "two losses").loss(logits()))
    assert [term.factor for term in explanation.terms] == [1.0, 0.1] or [t.factor for t in explanation.terms] == [
        0.1,
        1.0,
    ]
    assert sum(term.value for term in explanation.terms) == pytest.approx(explanation.value, rel=1e-6)


def test_an_addend_that_is_no_cross_entropy_is_made_again():
    x = logits()
    penalty = torch.nn.functional.mse_loss(x, torch.ones(6, 5)) + 0.01 * x.norm()
    explanation = xent.explain(torch.nn.functional.cross_entropy(x, Y) + penalty)
    assert explanation.equality.holds
    assert sum(rest.value for rest in explanation.rests) == pytest.approx(float(penalty.detach()), rel=1e-6)


@pytest.mark.parametrize(
    "target", [torch.empty(0, dtype=torch.int64), torch.full((6,), -100)], ids=["empty", "ignored"]
)
def test_a_mean_of_nothing_is_said_to_be(target):
    explanation = xent.explain(torch.nn.functional.cross_entropy(logits()[: len(target)], target))
    assert explanation.equality.holds  # NaN beside NaN
    assert "÷ 0 rows = nan" in str(explanation)


def test_what_was_added_without_a_graph_is_not_hidden():
    explanation = xent.explain(torch.nn.functional.cross_entropy(logits(), Y) + 3.0)
    assert not explanation.equality.explained
    assert explanation.equality.difference == pytest.approx(3.0, abs=1e-6)
    assert "NOT EQUAL: 3.0000 of it is not explained" in str(explanation)
    assert "AddBackward0 added something without a graph" in str(explanation)


def test_an_addend_that_cannot_be_read_is_named():
    x = logits()
    penalty = torch.linalg.det(x[:5])
    explanation = xent.explain(torch.nn.functional.cross_entropy(x, Y) + penalty)
    assert explanation.equality.difference == pytest.approx(float(penalty.detach()), rel=1e-5)
    assert "was added and can't be made again: the difference is its part" in " ".join(str(explanation).split())
