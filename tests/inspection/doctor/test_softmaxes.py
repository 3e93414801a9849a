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


PROBABILITIES = {
    "written out": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "clamped": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7),
    "averaged": lambda z: torch.stack([z.softmax(1), (2 * z).softmax(1)]).mean(0),
    "in bfloat16": lambda z: (z.exp() / z.exp().sum(1, keepdim=True)).bfloat16(),
}
LOGITS = {
    "sharpened": lambda z: (z.exp() / z.exp().sum(1, keepdim=True)) * 8,
    "logs": lambda z: (z.exp() / z.exp().sum(1, keepdim=True)).log(),
    "of a ReLU": lambda z: z.relu(),
    # 300 rows that are ≥ 0 and sum to 0.3: of bfloat16, too, that is not 1
    "small": lambda z: 0.3 * z.exp() / z.exp().sum(1, keepdim=True),
    "small, in bfloat16": lambda z: (0.3 * z.exp() / z.exp().sum(1, keepdim=True)).bfloat16(),
    "guesses": lambda z: (z * 0 + 1) / z.shape[1],
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_that_no_softmax_node_made(name: str) -> None:
    torch.manual_seed(0)
    z, target = torch.randn(40, 300, requires_grad=True), torch.randint(300, (40,))
    report = xent.check(PROBABILITIES[name](z), target)
    assert [(each.rule, each.certainty) for each in report.findings if each.rule != "low-precision-loss"] == [
        ("softmax-before-cross-entropy", "signature")
    ]


@pytest.mark.parametrize("name", LOGITS)
def test_logits_that_are_no_probabilities(name: str) -> None:
    torch.manual_seed(0)
    z, target = torch.randn(40, 300, requires_grad=True), torch.randint(300, (40,))
    report = xent.check(LOGITS[name](z), target)
    assert [each.rule for each in report.findings if each.severity == "error"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "loss", "rule"),
    [
        (lambda z: z.softmax(1), "cross_entropy", "softmax-before-cross-entropy"),
        (lambda z: z * 1.5, "nll_loss", "nll-without-log-probs"),
        (lambda z: z.softmax(0), "cross_entropy", "softmax-wrong-dim"),
    ],
)
def test_what_a_compiled_graph_made_is_told_by_its_values(function, loss: str, rule: str) -> None:
    """Compiled by the eager backend of AOT autograd: one node that shows nothing of what is in it."""
    torch.manual_seed(0)
    z, target = (3 * torch.randn(9, 5)).requires_grad_(), torch.randint(5, (9,))
    made = torch.compile(function, backend="aot_eager")(z)
    assert made.grad_fn.name().startswith("Compiled")
    with xent.doctor() as report:
        getattr(F, loss)(made, target)
    assert rule in {each.rule for each in report.findings}


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"reduction": "none"}, {"stats": True}], ids=str)
def test_the_nodes_of_our_own_kernels_are_losses(options):
    """Each way through the native column leaves another node behind."""
    x, y = torch.randn(50, 8, requires_grad=True), torch.randint(8, (50,))
    with xent.backend("native"):
        found = xent.cross_entropy(x.softmax(1), y, **options)
    loss = found[0] if isinstance(found, tuple) else found
    assert [finding.rule for finding in xent.check(loss.sum()).findings] == ["softmax-before-cross-entropy"]
