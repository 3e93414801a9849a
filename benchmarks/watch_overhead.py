"""What `xent.watch` costs a training step: the same loop with and without it, one after the other.

Prints the ratios that issue 7 bounds: the step of `xent train digits` (≤ 1.05) and of `xent train language_model`
(≤ 1.01), with the default sampling, and the milliseconds that a watched run takes once, whatever it does.

    python benchmarks/watch_overhead.py [--recipe digits] [--recipe language_model] [--rounds N] [--json FILE]

A round is a stretch of steps without, then with (or the other way round). Both are after the first 21 steps, at which
the doctor looks; what these and the beginning take more than without is `once_ms`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch

import xent
from xent.inspection.watching._first_steps import LAST_STEP
from xent.nn import CrossEntropyLoss
from xent.recipes import digits, language_model
from xent.recipes._learner import Learner
from xent.recipes.digits_config import DigitsConfig
from xent.recipes.language_model_config import LanguageModelConfig

STEPS = {"digits": 1400, "language_model": 40}  # of a stretch
Step = Callable[[], None]


def digits_steps() -> tuple[Learner, Step]:
    """The step of the digits recipe, as its loop has it."""
    learner = digits.build(DigitsConfig())
    loss_function, rows = CrossEntropyLoss(), learner.data.train
    batches = [batch for _ in range(30) for batch in torch.randperm(len(rows)).split(learner.config.batch_size)]
    turn = iter(batches * 1000)

    def step() -> None:
        batch = next(turn)
        loss = loss_function(learner.model(rows.features[batch]), rows.labels[batch])
        loss.backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad()

    return learner, step


def language_model_steps() -> tuple[Learner, Step]:
    """The step of the language-model recipe, as its loop has it."""
    learner = language_model.build(LanguageModelConfig())
    model, optimizer, count = learner.model, learner.optimizer, iter(range(1, 10**9))

    def step() -> None:
        tokens = language_model.draw_windows(learner)
        xent.linear_cross_entropy(model(tokens), model.embedding.weight, tokens, shift=1).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), language_model.CLIP)
        language_model.set_learning_rate(optimizer, learner.config, next(count))
        optimizer.step()
        optimizer.zero_grad()

    return learner, step


def timed(step: Step, steps: int) -> float:
    """Seconds."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


def stretch(learner: Learner, step: Step, steps: int, *, watched: bool) -> tuple[float, float]:
    """Seconds of the beginning with its first 21 steps, and of the steps after them."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        block = xent.watch(learner.model, learner.optimizer, Path(folder) / "run", **learner.names())
        with block if watched else nullcontext():
            timed(step, LAST_STEP)
            return time.perf_counter() - start, timed(step, steps)


def ratio(name: str, rounds: int) -> dict[str, float]:
    """Medians over rounds."""
    learner, step = digits_steps() if name == "digits" else language_model_steps()
    steps = STEPS[name]
    stretch(learner, step, 3, watched=True)
    pairs = []
    for number in range(rounds):
        order = (False, True) if number % 2 else (True, False)
        pairs.append({watched: stretch(learner, step, steps, watched=watched) for watched in order})
    return {
        "steps": steps,
        "step_ms": 1e3 * statistics.median(pair[False][1] for pair in pairs) / steps,
        "ratio": statistics.median(pair[True][1] / pair[False][1] for pair in pairs),
        "once_ms": 1e3 * statistics.median(pair[True][0] - pair[False][0] for pair in pairs),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", choices=list(STEPS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = {}
    for name in chosen.recipe or list(STEPS):
        torch.set_num_threads(1 if name == "digits" else torch.get_num_threads())
        found[name] = one = ratio(name, chosen.rounds)
        print(
            f"{name:<15} {one['step_ms']:8.3f} ms a step   ×{one['ratio']:.3f} watched   {one['once_ms']:.0f} ms once"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
