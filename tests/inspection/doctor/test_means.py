"""Means of means: found by what flows into the losses; deliberate weights, sums and shares are left alone."""

# ruff: noqa: E501  (programs as text: a line of theirs is a line here)

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.inspection.doctor.support import examined, found

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
model = nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
def batch(rows): return torch.randn(rows, 8), torch.randint(3, (rows,))
for _ in range(3):
    optimizer.zero_grad()
    for rows in (30, 10):
        x, y = batch(rows)
"""
STEP = "    optimizer.step()\n"
AT = HEAD.lstrip().count("\n")
ONLY = ("mean-of-means",)

MISTAKEN = {
    "plain": "        F.cross_entropy(model(x), y).backward()\n",
    "halved": "        (F.cross_entropy(model(x), y) / 2).backward()\n",
    "beside a penalty": "        (F.cross_entropy(model(x), y) / 2 + 1e-3 * model.weight.square().sum()).backward()\n",
    "ignored rows": "        y[:5] = -100\n        F.cross_entropy(model(x), y).backward()\n",
    "by hand": "        (-model(x).log_softmax(1)[torch.arange(rows), y].mean()).backward()\n",
    "none, then mean": "        F.cross_entropy(model(x), y, reduction='none').mean().backward()\n",
    "binary": "        F.binary_cross_entropy_with_logits(model(x), F.one_hot(y, 3).float()).backward()\n",
    "class weights": "        F.cross_entropy(model(x), y, weight=torch.tensor([1.0, 2.0, 3.0])).backward()\n",
    "scaled": "        torch.amp.GradScaler('cpu').scale(F.cross_entropy(model(x), y)).backward()\n",
    "xent": "        import xent; xent.cross_entropy(model(x), y).backward()\n",
}
CORRECT = {
    "sums": "        (F.cross_entropy(model(x), y, reduction='sum') / 40).backward()\n",
    "shares": "        (F.cross_entropy(model(x), y) * len(y) / 40).backward()\n",
    "weights of one's own": "        (F.cross_entropy(model(x), y) * (0.9 if rows == 30 else 0.1)).backward()\n",
    "rows weighted": "        (F.cross_entropy(model(x), y, reduction='none') * torch.rand(rows)).mean().backward()\n",
    "equally many": "        F.cross_entropy(model(x)[:10], y[:10]).backward()\n",
    "nearly equally many": "        x, y = batch(30 if rows == 30 else 29)\n        F.cross_entropy(model(x), y).backward()\n",
    "cleared in between": "        optimizer.zero_grad()\n        F.cross_entropy(model(x), y).backward()\n",
    "cleared by hand": "        model.weight.grad = model.bias.grad = None\n        F.cross_entropy(model(x), y).backward()\n",
    "a step each": "        F.cross_entropy(model(x), y).backward()\n        optimizer.step()\n        optimizer.zero_grad()\n",
    "no backward for .grad": "        torch.autograd.grad(F.cross_entropy(model(x), y), model.weight)\n    model(x).sum().backward()\n",
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKEN)
def test_found(name: str) -> None:
    report = examined(HEAD + MISTAKEN[name] + STEP, only=ONLY)
    line = AT + MISTAKEN[name].count("\n")
    assert found(report) == [("mean-of-means", line)], str(report)


def test_the_numbers_are_the_users() -> None:
    """30 and 10 rows: the mean of the two means against the mean over 40, to the digits of float32."""
    body = "        loss = F.cross_entropy(model(x), y)\n        losses.append(loss.item())\n        (loss / 2).backward()\n"
    text = HEAD.replace("for _ in range(3)", "losses = torch.seen_losses = []\nfor _ in range(1)") + body + STEP
    report = examined(text, only=ONLY)
    first, second = torch.__dict__.pop("seen_losses")
    values = report.findings[0].values
    assert (values["fewest"], values["most"]) == (10, 30)
    assert math.isclose(values["optimised"], (first + second) / 2, rel_tol=1e-6)
    assert math.isclose(values["mean"], (30 * first + 10 * second) / 40, rel_tol=1e-6)


@pytest.mark.parametrize("name", CORRECT)
def test_not_found(name: str) -> None:
    report = examined(HEAD + CORRECT[name] + STEP, only=ONLY)
    assert not report.findings, str(report)


def test_heads_of_their_own_are_not_compared() -> None:
    report = examined(HEAD.replace("for _ in range(3)", "heads = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])\nfor _ in range(3)")
                      + "        F.cross_entropy(heads[rows == 10](model(x)), y).backward()\n" + STEP, only=ONLY)  # fmt: skip
    assert not report.findings


RANKS = """
import os, sys, json
import torch
import torch.distributed as dist
import torch.nn.functional as F
import xent
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
model = torch.nn.Linear(8, 3)
for p in model.parameters(): dist.broadcast(p.data, 0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
rows = (30, 10)[dist.get_rank()]
with xent.doctor(only=["mean-of-means-across-ranks"]) as report:
    for _ in range(3):
        x, y = torch.randn(rows, 8), torch.randint(3, (rows,))
        optimizer.zero_grad()
        LOSS.backward()
        if "--apart" not in sys.argv:
            for p in model.parameters():
                dist.all_reduce(p.grad)
                p.grad /= 2
        optimizer.step()
print(json.dumps([report.to_dict(), dist.get_rank()]))
"""


def _ranks(tmp_path: Path, loss: str, *argv: str, asked: bool = True) -> list[dict]:
    script = tmp_path / "train.py"
    script.write_text(RANKS.replace("LOSS", loss))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
              "OMP_NUM_THREADS": "1", **({"XENT_DOCTOR_ACROSS_RANKS": "1"} if asked else {})}  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, str(script), *argv], env={**common, "RANK": str(rank)}, text=True,
                         stdout=subprocess.PIPE)
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in started]
    return [json.loads(output.splitlines()[-1])[0] for output in outputs]


@pytest.mark.slow
def test_ranks_that_average_means(tmp_path: Path) -> None:
    for report in _ranks(tmp_path, "F.cross_entropy(model(x), y)"):
        assert [each["rule"] for each in report["findings"]] == ["mean-of-means-across-ranks"]
        assert report["findings"][0]["values"] == {"ranks": 2, "fewest": 10, "most": 30}


@pytest.mark.slow
def test_ranks_that_divide_by_all_rows(tmp_path: Path) -> None:
    for report in _ranks(tmp_path, "(F.cross_entropy(model(x), y, reduction='sum') * 2 / 40)"):
        assert report["findings"] == []
        assert report["checked"] == ["mean-of-means-across-ranks"]


@pytest.mark.slow
def test_ranks_that_share_nothing(tmp_path: Path) -> None:
    """An ensemble: its members' batches need not be equal."""
    for report in _ranks(tmp_path, "F.cross_entropy(model(x), y)", "--apart"):
        assert report["findings"] == []


@pytest.mark.slow
def test_nothing_is_exchanged_unasked(tmp_path: Path) -> None:
    for report in _ranks(tmp_path, "F.cross_entropy(model(x), y)", asked=False):
        assert report["checked"] == []
        assert "XENT_DOCTOR_ACROSS_RANKS=1" in report["unchecked"][0]["reason"]
