"""Gradients that outlive their step; what only looks like it is left alone."""

from __future__ import annotations

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn.functional as F
model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
def loss(): return F.cross_entropy(model(x), y)
"""
MISTAKEN = {
    "no zero_grad": ("for _ in range(3):\n    loss().backward()\n    optimizer.step()\n", 9),
    "zeroed once": ("optimizer.zero_grad()\nfor _ in range(3):\n    loss().backward()\n    optimizer.step()\n", 10),
    "another's zero_grad": (
        "other = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1.0)\n"
        "for _ in range(3):\n    other.zero_grad()\n    loss().backward()\n    optimizer.step()\n",
        11,
    ),
    "clipped": (
        "for _ in range(3):\n    loss().backward()\n"
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    optimizer.step()\n",
        10,
    ),
}
CORRECT = {
    "before": "for _ in range(3):\n    optimizer.zero_grad()\n    loss().backward()\n    optimizer.step()\n",
    "after": "for _ in range(3):\n    loss().backward()\n    optimizer.step()\n    optimizer.zero_grad()\n",
    "zeros": (
        "for _ in range(3):\n    optimizer.zero_grad(set_to_none=False)\n    loss().backward()\n    optimizer.step()\n"
    ),
    "by the model": "for _ in range(3):\n    model.zero_grad()\n    loss().backward()\n    optimizer.step()\n",
    "by hand": (
        "for _ in range(3):\n    for p in model.parameters(): p.grad = None\n"
        "    loss().backward()\n    optimizer.step()\n"
    ),
    "accumulated": (
        "for i in range(8):\n    (loss() / 4).backward()\n    if i % 4 == 3:\n"
        "        optimizer.step()\n        optimizer.zero_grad()\n"
    ),
    "two steps of one gradient": "loss().backward()\noptimizer.step()\noptimizer.step()\n",
    "closure": (
        "optimizer = torch.optim.LBFGS(model.parameters())\n"
        "def closure():\n    optimizer.zero_grad()\n    value = loss()\n    value.backward()\n    return value\n"
        "for _ in range(3):\n    optimizer.step(closure)\n"
    ),
    "a GAN's generator": (
        "generator = torch.nn.Linear(8, 8)\n"
        "other = torch.optim.Adam(generator.parameters())\n"
        "for _ in range(3):\n"
        "    optimizer.zero_grad()\n"
        "    F.cross_entropy(model(generator(x)), y).backward()\n"
        "    optimizer.step()\n"
        "    other.zero_grad()\n"
        "    F.cross_entropy(model(generator(x)), y).backward()\n"
        "    other.step()\n"
    ),
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_found_at_the_step_that_used_the_sum(name: str) -> None:
    body, line = MISTAKEN[name]
    assert found(examined(HEAD + body, only=("stale-gradients",))) == [("stale-gradients", line)]


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=("stale-gradients",))
    assert not report.findings, str(report)


CLEARED = {
    "by the optimizer": "    loss().backward()\n    optimizer.zero_grad()\n    optimizer.step()\n",
    "to zeros": "    loss().backward()\n    optimizer.zero_grad(set_to_none=False)\n    optimizer.step()\n",
    "by the model": "    loss().backward()\n    model.zero_grad()\n    optimizer.step()\n",
}
USED = {
    "another's": (
        "other = torch.optim.SGD(torch.nn.Linear(8, 3).parameters(), lr=0.1)\nfor _ in range(4):\n"
        "    optimizer.zero_grad()\n    loss().backward()\n    other.zero_grad()\n    optimizer.step()\n"
    ),
    "set by hand": (
        "for _ in range(4):\n    loss().backward()\n    noisy = [p.grad + 0.1 for p in model.parameters()]\n"
        "    optimizer.zero_grad()\n    for p, g in zip(model.parameters(), noisy): p.grad = g\n    optimizer.step()\n"
    ),
    "once in a while": (
        "for i in range(4):\n    loss().backward()\n    if i % 2: optimizer.zero_grad()\n    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
    ),
    "before another backward": (
        "for _ in range(4):\n    loss().backward()\n    optimizer.zero_grad()\n    loss().backward()\n"
        "    optimizer.step()\n    optimizer.zero_grad()\n"
    ),
}


@pytest.mark.parametrize("name", CLEARED)
def test_gradients_that_are_cleared_before_the_step(name: str) -> None:
    report = examined(HEAD + "for _ in range(4):\n" + CLEARED[name])
    assert found(report) == [("gradients-cleared-before-step", 9)]
    assert report.findings[0].values == {"steps": 3}  # from the second on


@pytest.mark.parametrize("name", {**CORRECT, **USED})
def test_gradients_that_a_step_used(name: str) -> None:
    report = examined(HEAD + {**CORRECT, **USED}[name], only=("gradients-cleared-before-step",))
    assert not report.findings, str(report)


def test_one_step_is_not_judged() -> None:
    report = examined(HEAD + "loss().backward()\noptimizer.step()\n", only=("stale-gradients",))
    assert report.checked == ()
    assert report.unchecked[0].reason == "no optimizer made two steps"
