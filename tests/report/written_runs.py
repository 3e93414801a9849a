"""Runs for the report's tests: scikit-learn's digits, trained for real and written down as `xent.watch` does."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent

CLASSES = [str(digit) for digit in range(10)]


def write(directory: Path, records: Iterable[dict[str, Any]]) -> Path:
    """The records of a run, a line each."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records]
    (directory / "records.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return directory


def header(name: str = "digits", **fields: Any) -> dict[str, Any]:
    """The first record."""
    return {
        "kind": "run", "schema": 1, "started": "2026-11-25T21:00:00+00:00", "name": name,
        "command": ["xent", "train", "digits"], "config": {"lr": 0.5, "batch": 64, "hidden": 50, "optimizer": "sgd"},
        "machine": {"cpu": "some CPU", "cores": 2}, "versions": {"python": "3.11", "torch": "2.13.0"},
        "layers": ["0", "2"], "num_parameters": 3760, "every": 5, "class_names": CLASSES, "rank": 0, "world_size": 1,
        **fields,
    }  # fmt: skip


def step(number: int, loss: float | str, **fields: Any) -> dict[str, Any]:
    """A record of kind step, with everything that one may have."""
    total = loss if isinstance(loss, str) else loss * 64
    return {
        "kind": "step", "step": number, "loss": loss, "sum_nll": total, "count": 64,
        "ruler": {"floor": 0.0, "prior": 2.301, "uniform": math.log(10), "num_classes": 10}, "accuracy": 0.5,
        "learning_rates": [0.5], "rows_per_second": 20000.0,
        "seconds": {"data": 1e-4, "forward": 8e-4, "loss": 2e-4, "backward": 1.1e-3, "step": 4e-4, "other": 1e-4},
        **fields,
    }  # fmt: skip


def trained_digits(directory: Path, lr: float = 0.5, epochs: int = 8, every: int = 5) -> Path:
    """Train 64 → 50 → 10 on the digits, one micro-batch uneven with the next, and write everything down."""
    return write(directory, _digits_records(directory.name, lr, epochs, every))


def _digits_records(name: str, lr: float, epochs: int, every: int) -> Iterable[dict[str, Any]]:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(data.target)
    order = torch.randperm(len(x))
    train, held = order[:1438], order[1438:]
    model = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5)
    prior = torch.bincount(y[train]) / len(train)
    ruler = {"floor": 0.0, "prior": float(-(prior * prior.log()).sum()), "uniform": math.log(10), "num_classes": 10}
    yield header(name, config={"lr": lr, "batch": 64, "hidden": 50, "momentum": 0.5})
    number, began = 0, time.perf_counter()
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(64):
            number += 1
            yield from _step_records(number, every, (model, optimizer), (x[rows], y[rows]), ruler)
        yield _evaluation(number, model(x[held]), y[held], ruler)
    yield {"kind": "finding", "step": 3, "rule": "mean-of-means", "severity": "error", "certainty": "proved",
           "message": "The mean of two micro-batches of 40 and 24 rows is not the mean of 64 rows.",
           "fix": "divide the sum of the losses by the sum of the counts", "file": "train.py", "line": 31,
           "source": "loss = (first + second) / 2"}  # fmt: skip
    yield {"kind": "end", "status": "done", "steps": number, "seconds": time.perf_counter() - began, "error": None}


def _step_records(number: int, every: int, trained: tuple[Any, Any], rows: tuple[Tensor, Tensor], ruler: Any):
    (model, optimizer), (x, y), clock = trained, rows, [time.perf_counter()]
    with xent.step(model, optimizer) as ledger:
        optimizer.zero_grad()
        logits = model(x)
        clock.append(time.perf_counter())
        loss = F.cross_entropy(logits, y)
        clock.append(time.perf_counter())
        loss.backward()
        clock.append(time.perf_counter())
        before = {name: layer.weight.detach().clone() for name, layer in _linears(model)}
        optimizer.step()
    clock.append(time.perf_counter())
    nll = F.cross_entropy(logits.detach(), y, reduction="none")
    cuts = (nll[:40], nll[40:])
    forward, loss_took, backward, stepped = (b - a for a, b in pairwise(clock))
    yield step(
        number, float(loss.detach()), sum_nll=float(nll.sum()), count=len(nll), ruler=ruler,
        micro_batches=[{"sum_nll": float(cut.sum()), "count": len(cut)} for cut in cuts if len(cut)],
        accuracy=float((logits.argmax(1) == y).float().mean()), learning_rates=[optimizer.param_groups[0]["lr"]],
        rows_per_second=len(nll) / (clock[-1] - clock[0]),
        seconds={
            "data": 5e-5, "forward": forward, "loss": loss_took, "backward": backward, "step": stepped, "other": 0,
        },
    )  # fmt: skip
    if number % every == 1:
        yield _layers(number, model, before, x)
    if number % (4 * every) == 1:
        yield from _tables(number, logits.detach(), y, nll, x)
        yield {"kind": "ledger", "step": number, "ledger": ledger.to_dict()}


def _linears(model: nn.Module):
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]


def _layers(number: int, model: Any, before: dict[str, Tensor], x: Tensor) -> dict[str, Any]:
    layers = []
    for name, layer in _linears(model):
        moved = float((layer.weight.detach() - before[name]).norm())
        norm = float(before[name].norm())
        layers.append({
            "name": name, "gradient_norm": float(layer.weight.grad.norm()), "update_norm": moved, "weight_norm": norm,
            "update_ratio": moved / norm,
            "dead_fraction": float((model[1](model[0](x)) == 0).all(0).float().mean()) if name == "0" else None,
        })  # fmt: skip
    return {"kind": "layers", "step": number, "layers": layers}


def _tables(number: int, logits: Tensor, y: Tensor, nll: Tensor, x: Tensor) -> Iterable[dict[str, Any]]:
    p = logits.softmax(1)
    confidence, guess = p.max(1)
    right = guess == y
    yield {"kind": "classes", "step": number, "of": 10, "classes": [
        {"class": int(c), "name": CLASSES[c], "loss": float(nll[y == c].mean()), "count": int((y == c).sum()),
         "accuracy": float(right[y == c].float().mean())} for c in y.unique().tolist()]}  # fmt: skip
    bins = [(confidence > low / 10) & (confidence <= (low + 1) / 10) for low in range(10)]
    full = [inside for inside in bins if inside.any()]
    ece = sum(float((confidence[b].sum() - right[b].sum()).abs()) for b in full) / len(y)
    yield {"kind": "calibration", "step": number, "ece": ece, "bins": [
        {"confidence": float(confidence[b].mean()), "accuracy": float(right[b].float().mean()), "count": int(b.sum())}
        for b in full]}  # fmt: skip
    yield {"kind": "worst_rows", "step": number, "rows": [
        {"row": row, "target": CLASSES[y[row]], "prediction": CLASSES[guess[row]], "probability": float(p[row, y[row]]),
         "loss": float(nll[row]), "text": None,
         "picture": {"width": 8, "height": 8, "pixels": (x[row] * 255).int().tolist()}}
        for row in nll.topk(8).indices.tolist()]}  # fmt: skip


def _evaluation(number: int, logits: Tensor, y: Tensor, ruler: Any) -> dict[str, Any]:
    loss = float(F.cross_entropy(logits.detach(), y))
    return {"kind": "evaluation", "step": number, "split": "validation", "loss": loss,
            "count": len(y), "accuracy": float((logits.argmax(1) == y).float().mean()), "ruler": ruler}  # fmt: skip


def tokens(number: int, text: str = "the cat sat on the mat") -> dict[str, Any]:
    """A text, a piece a word, each costing what its frequency in the text says."""
    words = text.split(" ")
    return {"kind": "tokens", "step": number, "pieces": [
        {"text": word + " ", "nats": math.log(len(words) / words.count(word))} for word in words]}  # fmt: skip
