"""Losses of the Triton column are explained like torch's own: read from their nodes, equal to the last digits."""

from __future__ import annotations

import pytest
import torch

import xent
from tests.inspection import test_forms as forms
from tests.inspection.written_losses import OF_XENT, OPTIONS, ROWS, Y, logits
from tests.triton.conftest import ON_GPU

pytestmark = pytest.mark.skipif(ON_GPU, reason="an explanation reads the nodes, not what moves them")
READ = [case for case in OF_XENT if case.name not in ("xent.nll_loss", "xent, bce")]  # no kernel: refused by name


@pytest.mark.parametrize("case", READ, ids=str)
def test_a_loss_of_xent_is_read(case):
    forms.test_a_loss_is_read("triton", case)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_is_read(options):
    forms.test_every_option_of_xent_is_read("triton", options)


def log_probs(x, dim=-1):
    with xent.backend("triton"):
        return xent.log_softmax(x, dim)


def lse(x, *dims):
    with xent.backend("triton"):
        return xent.logsumexp(x, *dims)


TABLES = {
    "nll_loss": lambda x: torch.nn.functional.nll_loss(log_probs(x), Y),
    "nll_loss over dim 0": lambda x: torch.nn.functional.nll_loss(log_probs(x.t(), 0).t(), Y),
    "picked": lambda x: -log_probs(x)[ROWS, Y].mean(),
    "gathered, of three dimensions": lambda x: -log_probs(x.view(2, 3, 5)).gather(2, Y.view(2, 3, 1)).mean(),
    "with one-hot rows": lambda x: -(torch.nn.functional.one_hot(Y, 5) * log_probs(x)).sum(1).mean(),
    "x − logsumexp": lambda x: (lse(x, 1) - x[ROWS, Y]).mean(),
    "x − logsumexp, kept": lambda x: -(x - lse(x, 1, True))[ROWS, Y].mean(),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_table_of_the_kernels_is_read(name, dtype):
    """log_softmax keeps no result, logsumexp no table: what explains them is made again, place by place."""
    x = logits().detach().to(dtype).requires_grad_()
    loss = TABLES[name](x)
    explanation = xent.explain(loss)
    assert explanation.equality.holds, str(explanation)
    assert str(explanation).startswith("cross_entropy · mean over 6 rows · 5 classes"), str(explanation)
    forms.assert_gradient(explanation, torch.autograd.grad(loss, x)[0])
    if "nll_loss" in name:
        assert "nll_loss of log_softmax" in str(explanation)


def test_log_probabilities_in_half_are_those_that_were_rounded():
    """To the bit: made again in float32, with the kernel's two roundings, and rounded to bfloat16 once."""
    from xent.inspection._nodes import edge_of
    from xent.inspection._tables import expression_of

    x = (3 * logits().detach()).bfloat16().requires_grad_()
    with xent.backend("triton"):
        table = xent.log_softmax(x, 1)
    again = expression_of(edge_of(table)).rows((torch.arange(6),), 1)
    assert torch.equal(again, table.detach().double())


def test_a_row_without_a_finite_log_sum_exp_is_read():
    x = logits().detach()
    x[1], x[2, 0] = -torch.inf, torch.inf
    x.requires_grad_()
    value = lse(x, 1)
    from xent.inspection._nodes import edge_of
    from xent.inspection._tables import expression_of

    again = expression_of(edge_of(value)).at((torch.arange(6),))
    torch.testing.assert_close(again, value.detach().double(), rtol=1e-6, atol=0)


def test_the_log_sum_exp_of_statistics_is_read():
    """A z-loss that a user adds by hand."""
    x = logits()
    with xent.backend("triton"):
        loss, rows = xent.cross_entropy(x, Y, stats=True)
    explanation = xent.explain(loss + 0.01 * rows.lse.square().mean())
    assert explanation.equality.holds, str(explanation)
