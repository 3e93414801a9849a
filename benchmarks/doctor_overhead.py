"""What the doctor costs a training step: the same loop with and without it, interleaved.

Prints the two ratios that issue 6 bounds: a small MLP (≤ 1.10) and a step of about 50 ms (≤ 1.02).

    python benchmarks/doctor_overhead.py [--steps 2000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import xent


def small_mlp() -> Callable[[], None]:
    """784 → 128 → 10, batches of 64: the step of a first tutorial."""
    return _step(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), torch.randn(64, 784), 10)


def large_mlp() -> Callable[[], None]:
    """About 50 ms a step on two cores."""
    layers = [layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return _step(nn.Sequential(*layers, nn.Linear(1024, 1000)), torch.randn(256, 1024), 1000)


def _step(model: nn.Module, x: torch.Tensor, classes: int) -> Callable[[], None]:
    y = torch.randint(classes, (len(x),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], steps: int, *, examined: bool) -> float:
    """The steps of a run from its first one on; the doctor's own beginning and report are `once`."""
    with xent.doctor() if examined else nullcontext():
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return time.perf_counter() - start


def once() -> float:
    """Milliseconds that a doctor takes to begin and to report, whatever the run does."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with xent.doctor():
            pass
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def ratio(make: Callable[[], Callable[[], None]], steps: int, rounds: int) -> dict[str, float]:
    """Median over rounds of (with ÷ without), each pair measured one after the other."""
    step = make()
    seconds(step, max(3, steps // 20), examined=True)
    pairs = []
    for number in range(rounds):
        order = (False, True) if number % 2 else (True, False)
        measured = {examined: seconds(step, steps, examined=examined) for examined in order}
        pairs.append((measured[False], measured[True]))
    return {
        "steps": steps,
        "step_ms": 1e3 * statistics.median(without for without, _ in pairs) / steps,
        "ratio": statistics.median(with_ / without for without, with_ in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of the small MLP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    result = {
        "small MLP": ratio(small_mlp, options.steps, options.rounds),
        "50 ms step": ratio(large_mlp, max(10, options.steps // 20), options.rounds),
        "rules": len(xent.check(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)).checked),
        "once_ms": once(),
        "torch": torch.__version__,
    }
    for name, bound in (("small MLP", 1.10), ("50 ms step", 1.02)):
        found = result[name]
        print(f"{name:<10}  {found['step_ms']:7.2f} ms a step   with ÷ without {found['ratio']:.3f}   (bound {bound})")
    print(f"once        {result['once_ms']:7.2f} ms to begin and to report; {result['rules']} rules judge a call")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
