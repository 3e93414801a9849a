"""What steps do: jump over the valley, clip scaled gradients, keep graphs, follow a batch of few rows."""

# ruff: noqa: E501  (programs as text: a line of theirs is a line here)

from __future__ import annotations

import math

import pytest

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
x, y = torch.randn(64, 8), torch.arange(64) % 3
def sgd(lr): return torch.optim.SGD(model.parameters(), lr=lr)
"""
AT = HEAD.lstrip().count("\n")
LOOP = "for _ in range(8):\n    optimizer.zero_grad()\n    loss = F.cross_entropy(model(x), y)\n    loss.backward()\n    optimizer.step()\n"

JUMPS = {
    "plain": "optimizer = sgd(50.0)\n" + LOOP,
    "Adam": "optimizer = torch.optim.Adam(model.parameters(), lr=20.0)\n" + LOOP,
    "with a penalty": "optimizer = sgd(50.0)\n" + LOOP.replace("y)\n", "y) + 1e-3 * model[0].weight.square().sum()\n"),
}
NO_JUMPS = {
    "a small step": "optimizer = sgd(0.1)\n" + LOOP,
    "fresh batches": "optimizer = sgd(50.0)\n" + LOOP.replace("    loss =", "    x, y = torch.randn(64, 8), torch.arange(64) % 3\n    loss ="),
    "dropout": "drop = nn.Dropout(0.5)\noptimizer = sgd(50.0)\n" + LOOP.replace("model(x)", "model(drop(x))"),
    "noise on the inputs": "optimizer = sgd(50.0)\n" + LOOP.replace("model(x)", "model(x + torch.randn(64, 8))"),
    "inputs written over": "optimizer = sgd(50.0)\n" + LOOP.replace("    loss =", "    x.normal_()\n    loss ="),
    "clipped": "optimizer = sgd(50.0)\n" + LOOP.replace("    optimizer.step", "    nn.utils.clip_grad_norm_(model.parameters(), 1e-4)\n    optimizer.step"),
    "a part of the loss": "optimizer = torch.optim.SGD(model[2].parameters(), lr=50.0)\n" + LOOP,
}  # fmt: skip


@pytest.mark.parametrize("name", JUMPS)
def test_steps_that_overshoot(name: str) -> None:
    report = examined(HEAD + JUMPS[name], only=("step-overshoots",))
    assert found(report) == [("step-overshoots", AT + 6)], str(report)


@pytest.mark.parametrize("name", NO_JUMPS)
def test_steps_that_do_not(name: str) -> None:
    assert not examined(HEAD + NO_JUMPS[name], only=("step-overshoots",)).findings


def test_the_promise_is_the_gradient_times_the_change() -> None:
    """Of a loss that is linear in the parameters the promise is exact: measured / predicted is 1 to float32's digits."""
    from xent.inspection.checks import _step_sizes

    steps: list[float] = []
    original = _step_sizes._StepOvershoots.at_end

    def kept(self: _step_sizes._StepOvershoots) -> None:
        steps.extend(step.ratio for step in self._steps)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_step_sizes._StepOvershoots, "at_end", kept)
        examined(HEAD + "weight = torch.zeros(64, requires_grad=True)\noptimizer = torch.optim.SGD([weight], lr=0.1)\n"
                 + LOOP.replace("F.cross_entropy(model(x), y)", "(weight * x[:, 0]).sum() + (weight * y).sum()")
                 .replace("(weight * y)", "(weight * z)").replace("for _", "z = y.float()\nx = x[:, :1].clone()\nfor _")
                 .replace("x[:, 0]", "x.view(-1)"), only=("step-overshoots",))  # fmt: skip
    assert steps
    assert all(math.isclose(ratio, 1, rel_tol=1e-4) for ratio in steps)


SCALED = """
scaler, optimizer = torch.amp.GradScaler("cpu"), sgd(0.1)
for _ in range(3):
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    {}
    scaler.step(optimizer)
    scaler.update()
"""
CLIP = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"


def test_clipped_while_scaled() -> None:
    report = examined(HEAD + SCALED.format(CLIP), only=("clip-before-unscale",))
    assert found(report) == [("clip-before-unscale", AT + 6)]
    assert report.findings[0].values["scale"] == 65536
    assert report.findings[0].count == 3


@pytest.mark.parametrize("line", [
    f"scaler.unscale_(optimizer); {CLIP}",
    "pass",
    f"scaler.unscale_(optimizer); nn.utils.clip_grad_value_(model.parameters(), 1.0); {CLIP}",
    "nn.utils.clip_grad_norm_(nn.Linear(2, 2).parameters(), 1.0)",
])  # fmt: skip
def test_clipped_rightly(line: str) -> None:
    report = examined(HEAD + SCALED.format(line), only=("clip-before-unscale",))
    assert report.checked == ("clip-before-unscale",)
    assert not report.findings


def test_a_scaler_that_is_off() -> None:
    text = HEAD + SCALED.format(CLIP).replace('GradScaler("cpu")', 'GradScaler("cpu", enabled=False)')
    assert not examined(text, only=("clip-before-unscale",)).findings


KEPT = {
    "a sum": LOOP + "    total = total + loss\n",
    "a list": LOOP + "    history.append(loss)\n",
    "a scaled loss": LOOP.replace("loss.backward", "(loss / 4).backward") + "    total += loss\n",
}
LET_GO = {
    "numbers": LOOP + "    total += loss.item()\n",
    "detached": LOOP + "    history.append(loss.detach())\n",
    "the last one": LOOP + "    best = loss\n",
    "three models": (
        "nets = [nn.Linear(8, 3) for _ in range(6)]\nall = [torch.optim.SGD(net.parameters(), 0.1) for net in nets]\n"
        "losses = [None] * 6\nfor _ in range(6):\n    for i in range(6):\n        all[i].zero_grad()\n"
        "        losses[i] = F.cross_entropy(nets[i](x), y)\n        losses[i].backward()\n        all[i].step()\n"
    ),
    "sums before one backward": (
        "for _ in range(8):\n    optimizer.zero_grad()\n    loss = 0\n    for _ in range(5): loss += F.cross_entropy(model(x), y)\n"
        "    loss.backward()\n    optimizer.step()\n"
    ),
    "in a cycle of references": LOOP + "    record = {{'loss': loss}}\n    record['itself'] = record\n".replace("{{", "{").replace("}}", "}"),
    "kept on purpose": LOOP.replace("backward()", "backward(retain_graph=True)") + "    history.append(loss)\n",
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_kept_graphs(name: str) -> None:
    report = examined(HEAD + "optimizer, total, history = sgd(0.1), 0, []\n" + KEPT[name], only=("loss-kept-alive",))
    assert found(report) == [("loss-kept-alive", AT + 5)]


@pytest.mark.parametrize("name", LET_GO)
def test_graphs_that_are_let_go(name: str) -> None:
    report = examined(HEAD + "optimizer, total, history = sgd(0.1), 0, []\n" + LET_GO[name], only=("loss-kept-alive",))
    assert report.checked == ("loss-kept-alive",)
    assert not report.findings


RAGGED = """
optimizer = sgd(0.1)
for _ in range({epochs}):
    for rows in {sizes}:
        x, y = torch.randn(rows, 8), torch.randint(3, (rows,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        {step}
"""


@pytest.mark.parametrize(("sizes", "small"), [((32, 32, 32, 1), 1), ((32, 32, 8), 8), ((32,) * 40 + (3,), 3)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_ragged_last_batches(sizes: tuple[int, ...], small: int, epochs: int) -> None:
    report = examined(
        HEAD + RAGGED.format(sizes=sizes, epochs=epochs, step="optimizer.step()"), only=("ragged-last-batch",)
    )
    assert found(report) == [("ragged-last-batch", AT + 7)]
    assert report.findings[0].values == {"rows": small, "usual": 32, "batches": epochs * len(sizes)}


@pytest.mark.parametrize(("sizes", "step"), [
    ((32, 32, 32), "optimizer.step()"),
    ((32, 32, 16), "optimizer.step()"),
    ((32, 31, 8, 20), "optimizer.step()"),
    ((32, 4, 32, 4), "optimizer.step()"),
    ((32, 32, 32, 1), "if rows == 1: optimizer.step()"),
    ((4, 4, 4, 1), "optimizer.step()"),
])  # fmt: skip
def test_batches_that_are_not_ragged(sizes: tuple[int, ...], step: str) -> None:
    assert not examined(HEAD + RAGGED.format(sizes=sizes, epochs=2, step=step), only=("ragged-last-batch",)).findings


def test_evaluation_is_not_training() -> None:
    text = HEAD + RAGGED.format(sizes=(32, 32, 1), epochs=2, step="optimizer.step()").replace(
        "F.cross_entropy(model(x), y).backward()", "torch.no_grad()(F.cross_entropy)(model(x), y)"
    )
    assert not examined(text, only=("ragged-last-batch",)).findings
