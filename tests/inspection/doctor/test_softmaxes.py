"""How much smaller the gradients are that a softmax too many lets through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import xent


def _gradient(logits: Tensor, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("turned", [False, True])
def test_the_factor_is_that_of_autograd(scale: float, turned: bool) -> None:
    """Probabilities are read in float32, 6e-8 each: of the ratio of two norms 1e-4 is a generous share."""
    torch.manual_seed(0)
    z, target = (scale * torch.randn(6, 5, 7)).requires_grad_(), torch.randint(5, (6, 7))
    target[0] = -100
    p, logits = z.softmax(1), z
    if turned:
        p, logits = (each.transpose(1, 2).flatten(0, 1) for each in (p, z))
        target = target.flatten()
    wrong, right = F.cross_entropy(p, target), F.cross_entropy(logits, target)
    ratio = float(_gradient(z, right).norm() / _gradient(z, wrong).norm())
    (finding,) = xent.check(p, target).findings
    assert finding.certainty == "proof"
    assert finding.values["gradient_factor"] == pytest.approx(ratio, rel=1e-4)
    assert f"{ratio:.3g} times smaller" in finding.message


@pytest.mark.parametrize("options", [{"label_smoothing": 0.2}, {"weight": torch.tensor([1.0, 1, 1, 1, 20])}])
@pytest.mark.parametrize("both", [False, True])
def test_the_factor_knows_smoothing_and_class_weights(options: dict, both: bool) -> None:
    torch.manual_seed(0)
    z, target = (2 * torch.randn(6, 5)).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 4])
    options = {"label_smoothing": 0.1, **options} if both else options
    p = z.softmax(1)
    with xent.doctor() as report:
        wrong, right = F.cross_entropy(p, target, **options), F.cross_entropy(z, target, **options)
    ratio = float(_gradient(z, right).norm() / _gradient(z, wrong).norm())
    (finding,) = (one for one in report.findings if one.rule == "softmax-before-cross-entropy")
    assert finding.values["gradient_factor"] == pytest.approx(ratio, rel=1e-4)


def test_classes_that_were_cut_off_leave_no_factor() -> None:
    p = torch.randn(6, 5, requires_grad=True).softmax(1)[:, :3]
    (finding,) = xent.check(p, torch.tensor([0, 1, 2, 0, 1, 2])).findings
    assert finding.message.endswith("the gradients are smaller than without it.")


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"reduction": "none"}, {"stats": True}], ids=str)
def test_the_nodes_of_our_own_kernels_are_losses(options):
    """Each way through the native column leaves another node behind."""
    x, y = torch.randn(50, 8, requires_grad=True), torch.randint(8, (50,))
    with xent.backend("native"):
        found = xent.cross_entropy(x.softmax(1), y, **options)
    loss = found[0] if isinstance(found, tuple) else found
    assert [finding.rule for finding in xent.check(loss.sum()).findings] == ["softmax-before-cross-entropy"]
