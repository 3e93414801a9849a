"""Losses at the wrong level: too high at first, stuck at guessing; perplexities that are averaged."""

# ruff: noqa: E501  (programs as text: a line of theirs is a line here)

from __future__ import annotations

import math

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
x, y = torch.randn(64, 8), torch.randint(10, (64,))
def train(model, steps=2, lr=0.01, loss=F.cross_entropy):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
"""
AT = HEAD.lstrip().count("\n")
HIGH = {
    "large weights": "model = nn.Linear(8, 10)\nnn.init.normal_(model.weight, std=4.0)\ntrain(model)\n",
    "raw inputs": "x = x * 100\ntrain(nn.Linear(8, 10))\n",
    "a convolution": "x, y = x.view(4, 8, 4, 4)[:, :, :, :] * 1, torch.randint(10, (4, 4, 4))\n"
    "model = nn.Conv2d(8, 10, 1)\nnn.init.normal_(model.weight, std=4.0)\ntrain(model)\n",
}
FINE = {
    "torch's own initialisation": "train(nn.Linear(8, 10))\n",
    "a temperature": "weight = nn.Linear(8, 10)\ntrain(nn.Sequential(weight, type('T', (nn.Module,), {'forward': lambda s, z: z * 50})()))\n",
    "cosines of scale 64": (
        "class Cosine(nn.Linear):\n    def forward(self, x):\n"
        "        return 64 * F.normalize(x) @ F.normalize(self.weight).T\ntrain(Cosine(8, 10))\n"
    ),
    "similarities of a batch": (
        "class Pairs(nn.Linear):\n    def forward(self, x): return 9 * super().forward(x) @ x.T\n"
        "y = torch.arange(64)\ntrain(Pairs(8, 8))\n"
    ),
    "an outlier in a trained model": "model = nn.Linear(8, 10)\nnn.init.zeros_(model.weight)\nmodel.bias.data[0] = 9.0\ny[:] = 0\ntrain(model)\n",
    "no training": "F.cross_entropy(nn.Linear(8, 10)(x * 100), y)\n",
    "evaluated": "with torch.no_grad(): F.cross_entropy(nn.Linear(8, 10)(x * 100), y)\ntrain(nn.Linear(8, 10))\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HIGH)
def test_first_losses_that_are_too_high(name: str) -> None:
    report = examined(HEAD + HIGH[name], only=("initial-loss-too-high",))
    assert found(report) == [("initial-loss-too-high", 10)], str(report)
    assert report.findings[0].values["guessing"] == math.log(10)


@pytest.mark.parametrize("name", FINE)
def test_first_losses_that_are_fine(name: str) -> None:
    assert not examined(HEAD + FINE[name], only=("initial-loss-too-high",)).findings


STUCK = {
    "dead units": "model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))\n"
    "nn.init.constant_(model[0].bias, -50.0)\ntrain(model, 200, 0.5)\n",
    "inputs near zero": "x = x * 1e-4\ntrain(nn.Linear(8, 10), 200, 0.1)\n",
    "binary": "y = (x[:, :1] > 0).float()\nx = x * 1e-4\n"
    "train(nn.Linear(8, 1), 200, 0.1, F.binary_cross_entropy_with_logits)\n",
}
MOVING = {
    "it learns": "train(nn.Linear(8, 10), 200, 0.1)\n",
    "too short": "x = x * 1e-4\ntrain(nn.Linear(8, 10), 60, 0.1)\n",
    "two models": "x = x * 1e-4\ntorch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)\ntrain(nn.Linear(8, 10), 200, 0.1)\n",
    "one label": "y[:] = 3\nx = x * 1e-4\ntrain(nn.Linear(8, 10), 200, 0.5)\n",
}


@pytest.mark.parametrize("name", STUCK)
def test_stuck(name: str) -> None:
    report = examined(HEAD + STUCK[name], only=("stuck-at-prior",))
    assert found(report) == [("stuck-at-prior", 10)], str(report)
    dead = "1 of 1 ReLUs give 0 for every row (behind 0.weight)"
    assert (dead in report.findings[0].message) == (name == "dead units")


@pytest.mark.parametrize("name", MOVING)
def test_not_stuck(name: str) -> None:
    assert not examined(HEAD + MOVING[name], only=("stuck-at-prior",)).findings


LOOP = """
model = nn.Linear(8, 10)
def evaluate():
    total, values = 0.0, []
    for rows in x.split(16), x.split(16):
        for part in rows:
            loss = F.cross_entropy(model(part), y[: len(part)])
            {}
    return {}
print(evaluate())
"""
AVERAGED = {
    "torch.exp": ("total += torch.exp(loss)", "total / 8"),
    "math.exp of a float": ("total += math.exp(loss.item())", "total / 8"),
    "a list": ("values.append(loss.detach().exp())", "torch.stack(values).mean()"),
    "by name": ("p = loss.exp().item(); values.append(p)", "sum(values) / len(values)"),
    "written out": ("total = total + math.exp(float(loss.detach()))", "total / 8"),
}
NOT_AVERAGED = {
    "exp of the mean": ("total += loss.item() * 16", "math.exp(total / 128)"),
    "shown": ("print(math.exp(loss.item()))", "0"),
    "kept for a plot": ("values.append(math.exp(loss.item()))", "values"),
    "another exp": ("total += torch.exp(-loss)", "total / 8"),
    "a sum of losses": ("total += F.cross_entropy(model(part), y[:16], reduction='sum').exp()", "total / 8"),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_perplexities(name: str) -> None:
    report = examined(HEAD + LOOP.format(*AVERAGED[name]), only=("perplexity-of-means",))
    assert found(report) == [("perplexity-of-means", AT + 8)], str(report)
    values = report.findings[0].values
    assert values["averaged"] >= values["perplexity"]  # Jensen


@pytest.mark.parametrize("name", NOT_AVERAGED)
def test_perplexities_that_are_not_averaged(name: str) -> None:
    report = examined(HEAD + LOOP.format(*NOT_AVERAGED[name]), only=("perplexity-of-means",))
    assert not report.findings
    assert "plain floats" in report.unchecked[0].reason
