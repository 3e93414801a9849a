"""What the doctor costs a training step: the same steps with and without it, in turns.

Prints the two ratios that issue 6 bounds: a small MLP (≤ 1.10) and a step of about 50 ms (≤ 1.02).

    python benchmarks/doctor_overhead.py [--steps 2000] [--only "small MLP"] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import xent
from xent.inspection.examination import _capture
from xent.inspection.examination._doctor import session_for
from xent.inspection.examination._session import is_sampled


def small_mlp() -> Callable[[], None]:
    """784 → 128 → 10, batches of 64: the step of a first tutorial."""
    return _step(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)), torch.randn(64, 784), 10)


def large_mlp() -> Callable[[], None]:
    """About 50 ms a step on two cores."""
    layers = [layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return _step(nn.Sequential(*layers, nn.Linear(1024, 1000)), torch.randn(128, 1024), 1000)


def _step(model: nn.Module, x: torch.Tensor, classes: int) -> Callable[[], None]:
    y = torch.randint(classes, (len(x),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def costs(make: Callable[[], Callable[[], None]], steps: int, blocks: int) -> dict[str, Any]:
    """One run of `steps` steps under the doctor, then short blocks of steps in turns: examined, and with it paused.

    A machine's speed changes within seconds by more than what is measured; neighbouring blocks share it. The sampled
    steps (1, 2, 3, 5, 10, 20, …) are looked at by themselves: their time beyond a usual step is spread over `steps`.
    """
    step = make()
    for _ in range(max(3, steps // 20)):
        step()
    session = session_for((), ())
    usual, sampled = _of_a_run(step, steps)
    pairs = []
    for number in range(blocks):
        measured = {}
        for examined in (False, True) if number % 2 else (True, False):
            if not examined:
                _capture.end(session)
            _seconds(step, max(2, steps // 100))  # the wrappers came or went: caches are cold
            measured[examined] = _seconds(step, max(5, steps // 20))
            if not examined:
                _capture.begin(session)
        pairs.append((measured[False], measured[True]))
    _capture.end(session)
    session.end()
    steady = [examined / bare for bare, examined in pairs]
    low, _, high = statistics.quantiles(steady, n=4)
    ratio = statistics.median(steady) + sampled / (usual * steps)
    return {
        "steps": steps, "blocks": blocks, "step_ms": 1e3 * usual, "steady": statistics.median(steady),
        "steady_quartiles": [low, high], "sampled_ms": 1e3 * sampled, "ratio": ratio,
    }  # fmt: skip


def _of_a_run(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """The median step, and what the sampled ones took beyond it, all together."""
    times = [_seconds(step, 1) for _ in range(steps)]
    usual = statistics.median(times)
    return usual, sum(each - usual for number, each in enumerate(times, start=1) if is_sampled(number))


def _seconds(step: Callable[[], None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps


def once() -> float:
    """Milliseconds that a doctor takes to begin and to report, whatever the run does."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        with xent.doctor():
            pass
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


BOUNDS = {"small MLP": 1.10, "50 ms step": 1.02}


def _line(name: str, found: dict[str, Any]) -> str:
    low, high = found["steady_quartiles"]
    return (
        f"{name:<10}  {found['step_ms']:7.2f} ms a step   with ÷ without {found['ratio']:.3f} "
        f"over {found['steps']} steps (bound {BOUNDS[name]}): "
        f"steady {found['steady']:.3f} (half of the pairs {low:.3f} to {high:.3f}), "
        f"sampled steps {found['sampled_ms']:.0f} ms more in all"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of the small MLP; a twentieth of the large one")
    parser.add_argument("--blocks", type=int, default=60, help="pairs of blocks of a twentieth of the steps")
    parser.add_argument("--only", choices=BOUNDS, help="one of the two")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rules = len(xent.check(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)).checked)
    result: dict[str, Any] = {"rules": rules, "once_ms": once(), "torch": torch.__version__}
    print(f"once        {result['once_ms']:7.2f} ms to begin and to report; {rules} rules judge a call", flush=True)
    for name, make in (("small MLP", small_mlp), ("50 ms step", large_mlp)):
        if options.only in (None, name):
            steps = options.steps if name == "small MLP" else max(10, options.steps // 20)
            result[name] = costs(make, steps, options.blocks)
            print(_line(name, result[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
