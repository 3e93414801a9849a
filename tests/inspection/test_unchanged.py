"""An explanation changes nothing: the graph, gradients, versions, random state; and makes no copy of the logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import xent
from tests.edge_cases import BACKENDS_HERE
from tests.inspection.written_losses import IGNORED, W, Y, logits

LOSSES = {
    "torch": lambda x: F.cross_entropy(x, IGNORED, W, label_smoothing=0.1),
    "by hand": lambda x: -x.log_softmax(1)[torch.arange(6), Y].mean(),
    "xent": lambda x: xent.cross_entropy(x, Y, label_smoothing=0.1),
    "linear": lambda x: xent.linear_cross_entropy(x, torch.eye(5), Y),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(6, 5)),
}


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_changed(backend, name):
    x, calls = logits(), []
    x.register_hook(lambda gradient: calls.append("hook"))
    x.grad = torch.full_like(x, 7.0)
    with xent.backend(backend):
        loss = LOSSES[name](x)
        before = (loss.detach().clone(), x._version, loss._version, torch.get_rng_state(), torch.is_grad_enabled())
        explanation = xent.explain(loss)
        str(explanation), explanation._repr_html_(), explanation.to_dict(), str(explanation.gradient())
        str(explanation.rows("random")), str(explanation.by_class()), str(explanation.suspects()), explanation.code()
        after = (loss.detach().clone(), x._version, loss._version, torch.get_rng_state(), torch.is_grad_enabled())
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert not calls
    assert bool((x.grad == 7.0).all())
    gradient = torch.autograd.grad(loss, x, retain_graph=True)[0]  # the graph is whole, twice
    with xent.backend(backend):
        fresh = torch.autograd.grad(LOSSES[name](x), x)[0]
    assert torch.equal(gradient, fresh)
    loss.backward()
    assert torch.equal(x.grad, 7.0 + fresh)


def test_it_works_under_no_grad_and_inference_mode():
    x = logits()
    loss = F.cross_entropy(x, Y)
    with torch.no_grad():
        assert xent.explain(loss).equality.holds
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert xent.explain(torch.randn(3, 4), torch.tensor([0, 1, 2])).equality.holds


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system has no high-water mark to reset")
@pytest.mark.parametrize("loss_of", [F.cross_entropy, xent.cross_entropy], ids=["torch", "xent"])
def test_the_logits_are_not_copied(loss_of):
    """256 MiB of logits, and less than a quarter of them beside: a row in float64 is 0.5 MiB, blocks are 16."""
    x = torch.zeros(1024, 65536).normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = loss_of(x, torch.arange(1024))
    str(xent.explain(loss_of(x[:2].detach().requires_grad_(), torch.arange(2))))  # imports
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    explanation = xent.explain(loss)
    str(explanation), repr(explanation), explanation.to_dict()
    assert resident("VmHWM") - before < 64 * 2**20
    assert explanation.equality.explained


def resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024
