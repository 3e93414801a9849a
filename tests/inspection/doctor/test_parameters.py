"""Parameters that nothing moves: not registered, in no optimizer, never reached; what only looks like it."""

from __future__ import annotations

import pytest
import torch

import xent
from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
x, y = torch.randn(32, 8), torch.randint(3, (32,))
def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
class Net(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers, self.head = layers, nn.Linear(8, 3)
    def forward(self, x):
        layers = self.layers.values() if isinstance(self.layers, dict) else self.layers
        for layer in layers: x = layer(x) if callable(layer) else x @ layer
        return self.head(x)
SGD = torch.optim.SGD
"""
ALL = ("parameter-not-registered", "parameter-not-in-optimizer", "parameter-unreached")
AT = HEAD.lstrip().count("\n")

UNREGISTERED = {
    "list": "[nn.Linear(8, 8), nn.Linear(8, 8)]",
    "tuple": "(nn.Linear(8, 8), nn.Linear(8, 8))",
    "dict": "{'a': nn.Linear(8, 8), 'b': nn.Linear(8, 8)}",
    "parameters in a list": "[nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))]",
}


@pytest.mark.parametrize("name", UNREGISTERED)
def test_not_registered(name: str) -> None:
    report = examined(HEAD + f"model = Net({UNREGISTERED[name]})\noptimizer = SGD(model.parameters(), 0.1)\n"
                      "train(model, optimizer)\n", only=ALL)  # fmt: skip
    assert found(report) == [("parameter-not-registered", AT + 2)]
    assert report.findings[0].certainty == "proof"
    assert report.findings[0].values["numbers"] == (128 if "parameters" in name else 144)


def test_a_single_hidden_module_is_only_suspected() -> None:
    """One module in a list of its own is how people hide a module from the registry on purpose."""
    report = examined(HEAD + "model = Net([nn.Linear(8, 8)])\ntrain(model, SGD(model.parameters(), 0.1))\n", only=ALL)
    assert [(each.rule, each.certainty) for each in report.findings] == [("parameter-not-registered", "heuristic")]


def test_no_optimizer_is_needed() -> None:
    report = examined(HEAD + "model = Net([nn.Linear(8, 8), nn.ReLU()])\nF.cross_entropy(model(x), y).backward()\n",
                      only=ALL)  # fmt: skip
    assert found(report) == [("parameter-not-registered", AT + 2)]


def test_a_model_that_is_gone_is_not_called_right() -> None:
    """A single backward and steps by hand: when the program ends nobody can tell where its leaves were held."""
    report = examined(HEAD + "def main():\n    model = Net([nn.Linear(8, 8), nn.ReLU()])\n"
                      "    F.cross_entropy(model(x), y).backward()\nmain()\n", only=ALL)  # fmt: skip
    assert not report.findings
    assert "parameter-not-registered" in {one.rule for one in report.unchecked}


def test_an_optimizer_from_before_and_two_steps_are_enough() -> None:
    torch.manual_seed(0)
    body, head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)
    optimizer = torch.optim.SGD(body.parameters(), lr=0.1)
    with xent.doctor(only=ALL) as report:
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(body(torch.randn(32, 8))), torch.randint(3, (32,))).backward()
            optimizer.step()
    assert [finding.rule for finding in report.findings] == ["parameter-not-in-optimizer"]


NOT_IN_OPTIMIZER = {
    "another model": "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\noptimizer = SGD(body.parameters(), 0.1)\n"
    "train(nn.Sequential(body, head), optimizer)\n",
    "a bare head": "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\noptimizer = SGD(body.parameters(), 0.1)\n"
    "train(lambda x: head(body(x)), optimizer)\n",
    "weights only": "model = nn.Linear(8, 3)\noptimizer = SGD([model.weight], 0.1)\ntrain(model, optimizer)\n",
}


@pytest.mark.parametrize("name", NOT_IN_OPTIMIZER)
def test_not_in_optimizer(name: str) -> None:
    report = examined(HEAD + NOT_IN_OPTIMIZER[name], only=ALL)
    assert found(report) == [("parameter-not-in-optimizer", AT + 2)]


def test_a_backbone_in_eval_mode_is_a_remark() -> None:
    report = examined(HEAD + "body, head = nn.Linear(8, 8).eval(), nn.Linear(8, 3)\n"
                      "train(lambda x: head(body(x)), SGD(head.parameters(), 0.1))\n", only=ALL)  # fmt: skip
    assert [each.severity for each in report.findings] == ["info"]


UNREACHED = {
    "detached": ("body, head = nn.Linear(8, 8), nn.Linear(8, 3)\n"
                 "optimizer = SGD([*body.parameters(), *head.parameters()], 0.1)\n"
                 "train(lambda x: head(body(x).detach()), optimizer)\n", 2),
    "under no_grad": ("body, head = nn.Linear(8, 8), nn.Linear(8, 3)\n"
                      "optimizer = SGD([*body.parameters(), *head.parameters()], 0.1)\n"
                      "train(lambda x: head(torch.no_grad()(body)(x)), optimizer)\n", 2),
    "unused": ("model = nn.ModuleDict({'used': nn.Linear(8, 3), 'left': nn.Embedding(3, 3)})\n"
               "optimizer = torch.optim.Adam(model.parameters())\n"
               "train(lambda x: model['used'](x), optimizer)\n", 2),
    "the wrong model": ("import copy\nmodel = nn.Linear(8, 3)\n"
                        "optimizer = SGD(copy.deepcopy(model).parameters(), 0.1)\ntrain(model, optimizer)\n", 1),
    "cut in the middle of a list": ("model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))\n"
                                    "optimizer = SGD(model.parameters(), 0.1)\n"
                                    "train(lambda x: model[2](model[1](model[0](x)).detach()), optimizer)\n", 4),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREACHED)
def test_unreached(name: str) -> None:
    body, _ = UNREACHED[name]
    report = examined(HEAD + body, only=("parameter-unreached",))
    line = next(i for i, text in enumerate((HEAD + body).lstrip().splitlines(), 1) if text.startswith("optimizer ="))
    assert found(report) == [("parameter-unreached", line)]
    assert report.findings[0].severity == "warning"


def test_the_end_of_the_graph_is_named() -> None:
    report = examined(HEAD + UNREACHED["detached"][0], only=("parameter-unreached",))
    assert "AddmmBackward0 of Linear.weight" in report.findings[0].message


CORRECT = {
    "registered": "model = Net(nn.ModuleList([nn.Linear(8, 8)]))\ntrain(model, SGD(model.parameters(), 0.1))\n",
    "a list that the optimizer is given": (
        "model = Net([nn.Linear(8, 8), nn.Linear(8, 8)])\n"
        "weights = [p for layer in model.layers for p in layer.parameters()]\n"
        "train(model, SGD([*model.parameters(), *weights], 0.1))\n"
    ),
    "a list whose optimizer comes later": (
        "model = Net([nn.Linear(8, 8), nn.Linear(8, 8)])\nF.cross_entropy(model(x), y).backward()\n"
        "train(model, SGD([*model.parameters(), *[p for layer in model.layers for p in layer.parameters()]], 0.1))\n"
    ),
    "registered elsewhere too": (
        "layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])\nmodel = Net(list(layers))\n"
        "train(model, SGD([*layers.parameters(), *model.head.parameters()], 0.1))\n"
    ),
    "a frozen teacher in a list": (
        "model = Net([nn.Linear(8, 8).requires_grad_(False), nn.ReLU()])\ntrain(model, SGD(model.parameters(), 0.1))\n"
    ),
    "two optimizers": (
        "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\n"
        "first, second = SGD(body.parameters(), 0.1), SGD(head.parameters(), 0.1)\n"
        "for _ in range(3):\n    F.cross_entropy(head(body(x)), y).backward()\n"
        "    for optimizer in (first, second):\n        optimizer.step()\n        optimizer.zero_grad()\n"
    ),
    "a GAN": (
        "G, D = nn.Linear(8, 8), nn.Linear(8, 1)\ng, d = SGD(G.parameters(), 0.1), SGD(D.parameters(), 0.1)\n"
        "bce = F.binary_cross_entropy_with_logits\none, zero = torch.ones(32, 1), torch.zeros(32, 1)\n"
        "for _ in range(3):\n"
        "    d.zero_grad()\n    (bce(D(x), one) + bce(D(G(x).detach()), zero)).backward()\n    d.step()\n"
        "    g.zero_grad()\n    bce(D(G(x)), one).backward()\n    g.step()\n"
    ),
    "moved by hand": (
        "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\noptimizer = SGD(head.parameters(), 0.1)\n"
        "for _ in range(3):\n    optimizer.zero_grad()\n    F.cross_entropy(head(body(x)), y).backward()\n"
        "    optimizer.step()\n    for p in body.parameters(): p.data -= 0.1 * p.grad\n"
    ),
    "an adversarial input": (
        "model = nn.Linear(8, 3)\nx.requires_grad_(True)\nmodel.seen = [x, x]\n"
        "train(model, SGD(model.parameters(), 0.1))\n"
        "torch.autograd.grad(F.cross_entropy(model(x), y), x)\n"
    ),
    "style transfer": (
        "model = nn.Linear(8, 3)\nimage = x.clone().requires_grad_(True)\noptimizer = SGD([image], 0.1)\n"
        "train(lambda _: model(image), optimizer)\n"
    ),
    "unfrozen later": (
        "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\nbody.requires_grad_(False)\n"
        "optimizer = SGD(head.parameters(), 0.1)\nnet = lambda x: head(body(x))\ntrain(net, optimizer)\n"
        "body.requires_grad_(True)\noptimizer.add_param_group({'params': body.parameters()})\ntrain(net, optimizer)\n"
    ),
    "a phase that ended": (
        "body, head = nn.Linear(8, 8), nn.Linear(8, 3)\nnet = lambda x: head(body(x))\n"
        "train(net, SGD([*body.parameters(), *head.parameters()], 0.1))\ntrain(net, SGD(head.parameters(), 0.1))\n"
    ),
    "frozen in the optimizer": (
        "body, head = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 3)\n"
        "train(lambda x: head(body(x)), SGD([*body.parameters(), *head.parameters()], 0.1))\n"
    ),
    "reentrant checkpointing": (
        "from torch.utils.checkpoint import checkpoint\nbody, head = nn.Linear(8, 8), nn.Linear(8, 3)\n"
        "first = nn.Linear(8, 8)\nmodel = lambda x: head(checkpoint(body, first(x), use_reentrant=True))\n"
        "train(model, SGD([*first.parameters(), *body.parameters(), *head.parameters()], 0.1))\n"
    ),
    "heads in turn": (
        "body, heads = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])\n"
        "optimizer = SGD([*body.parameters(), *heads.parameters()], 0.1)\n"
        "for i in range(8): train(lambda x: heads[i % 2](body(x)), optimizer, 1)\n"
    ),
    "L-BFGS": (
        "model = nn.Linear(8, 3)\noptimizer = torch.optim.LBFGS(model.parameters())\n"
        "def closure():\n    optimizer.zero_grad()\n    loss = F.cross_entropy(model(x), y)\n    loss.backward()\n"
        "    return loss\nfor _ in range(3): optimizer.step(closure)\n"
    ),
    "gradients by autograd.grad": (
        "model = nn.Linear(8, 3)\noptimizer = SGD(model.parameters(), 0.1)\nweights = list(model.parameters())\n"
        "for _ in range(3):\n    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), weights)\n"
        "    for p, g in zip(weights, gradients): p.grad = g\n    optimizer.step()\n"
    ),
    "sparse gradients": (
        "table, head = nn.Embedding(9, 8, sparse=True), nn.Linear(8, 3)\n"
        "net = lambda _: head(table(torch.arange(32) % 9))\n"
        "train(net, SGD([*table.parameters(), *head.parameters()], 0.1))\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name], only=ALL)
    assert not report.findings, str(report)


def test_experts_that_were_not_chosen_are_a_remark() -> None:
    report = examined(HEAD + "body, heads = nn.Linear(8, 8), nn.ModuleList(nn.Linear(8, 3) for _ in range(3))\n"
                      "model = nn.ModuleList([body, heads])\noptimizer = SGD(model.parameters(), 0.1)\n"
                      "train(lambda x: heads[0](body(x)), optimizer)\n", only=ALL)  # fmt: skip
    assert [(each.rule, each.severity, each.certainty) for each in report.findings] == [
        ("parameter-unreached", "info", "heuristic")
    ]


def test_short_runs_are_not_judged() -> None:
    report = examined(HEAD + "model = nn.Linear(8, 3)\ntrain(model, SGD(model.parameters(), 0.1), 1)\n", only=ALL)
    assert {each.rule for each in report.unchecked} == {"parameter-not-in-optimizer", "parameter-unreached"}
