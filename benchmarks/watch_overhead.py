"""What `xent.watch` costs a training step: one process, one model, short stretches of steps with it and without.

Prints the ratios that issue 7 bounds: the step of `xent train digits` (≤ 1.05) and of `xent train language_model`
(≤ 1.01), with the default sampling.

    python benchmarks/watch_overhead.py [--recipe digits] [--recipe language_model] [--seconds N] [--json FILE]

A pair is a stretch watched and one that is not, in an order drawn by chance. In between the recording is taken out as
a whole, wrappers and hooks, and its clock is stopped: what is not watched pays for no record. The first 21 steps, at
which the doctor looks, come before; `once_ms` is what they and the beginning take more than without.

Three numbers, because one alone can be luck. `cpu`: Σ processor time with ÷ Σ without; time that another machine on the
same host took counts little. `wall`: the same of the clock. Both have their interval of 90 % over pairs drawn again
(bootstrap). `typical`: the median of the pairs, which leaves out what is rare: noise, but also tables and ledgers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import xent
from xent.inspection.watching import _listening
from xent.inspection.watching._first_steps import LAST_STEP
from xent.inspection.watching._recording import Recording
from xent.inspection.watching._schedule import KINDS
from xent.nn import CrossEntropyLoss
from xent.recipes import digits, language_model
from xent.recipes._learner import Learner
from xent.recipes.digits_config import DigitsConfig
from xent.recipes.language_model_config import LanguageModelConfig

STEPS = {"digits": 600, "language_model": 10}  # of a stretch
UNTIMED = {"digits": 20, "language_model": 1}  # before it: replaced functions cost Python its specialised code
Step = Callable[[], None]
Pair = tuple[tuple[float, float], tuple[float, float]]  # (clock, processor) of a stretch without, and with


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


def timed(step: Step, steps: int) -> tuple[float, float]:
    """Seconds of the clock and of the processor, all threads."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return time.perf_counter() - start, time.process_time() - busy


class Pausable:
    """A watch that can be taken out and put in again as if no time had passed."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.own: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        took = recording.schedule.took

        def noted(kind: str, step: int, seconds: float) -> None:
            self.own[kind] += seconds
            took(kind, step, seconds)

        recording.schedule.took = noted

    def pause(self) -> None:
        """Take it out."""
        self._since = time.perf_counter()
        self.recording._rest()
        self.recording._stack.close()
        _listening.end(self.recording)

    def resume(self) -> None:
        """Put it in."""
        schedule = self.recording.schedule
        away = time.perf_counter() - self._since
        schedule._began_at += away
        for account in schedule._accounts.values():
            account.due_at += away
        self.recording.begin(examined=False)


def once(learner: Learner, step: Step) -> float:
    """Seconds that a watched run takes more for its beginning and the first 21 steps: the median of 5."""
    found = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with xent.watch(learner.model, learner.optimizer, Path(folder) / "run", **learner.names()):
                timed(step, LAST_STEP)
                found.append(time.perf_counter() - start - timed(step, LAST_STEP)[0])
    return statistics.median(found)


def pairs_of(name: str, learner: Learner, step: Step, seconds: float) -> tuple[list[Pair], dict[str, float]]:
    """Pairs of stretches for about so many seconds; and each kind of record's share, as the recording counts it."""
    steps, pairs, draw = STEPS[name], [], random.Random(0)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        watching = xent.watch(learner.model, learner.optimizer, Path(folder) / "run", **learner.names())
        stack.enter_context(watching)
        timed(step, LAST_STEP + 9)
        watch = Pausable(watching._recording)
        watch.pause()
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            pair = {}
            for watched in draw.sample((False, True), 2):
                if watched:
                    watch.resume()
                timed(step, UNTIMED[name])
                pair[watched] = timed(step, steps)
                if watched:
                    watch.pause()
            pairs.append((pair[False], pair[True]))
    busy = sum(bare[0] for bare, _ in pairs)
    return pairs, {kind: own / busy for kind, own in watch.own.items()}


def ratio(name: str, seconds: float) -> dict[str, Any]:
    """All numbers of a recipe."""
    learner, step = digits_steps() if name == "digits" else language_model_steps()
    extra = once(learner, step)
    pairs, shares = pairs_of(name, learner, step, seconds)
    return {
        "steps": STEPS[name] * len(pairs),
        "pairs": len(pairs),
        "step_ms": 1e3 * statistics.median(bare[0] for bare, _ in pairs) / STEPS[name],
        "cpu": of_sums(pairs, 1),
        "wall": of_sums(pairs, 0),
        "typical": statistics.median(with_[0] / bare[0] for bare, with_ in pairs),
        "records": shares,
        "once_ms": 1e3 * extra,
    }


def of_sums(pairs: list[Pair], clock: int) -> list[float]:
    """Σ with ÷ Σ without, and the ends of its interval of 90 %."""
    draw = random.Random(0)

    def of(some: list[Pair]) -> float:
        return sum(with_[clock] for _, with_ in some) / sum(bare[clock] for bare, _ in some)

    again = sorted(of(draw.choices(pairs, k=len(pairs))) for _ in range(1000))
    return [of(pairs), again[50], again[949]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", action="append", choices=list(STEPS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = {}
    for name in chosen.recipe or list(STEPS):
        torch.set_num_threads(1 if name == "digits" else torch.get_num_threads())
        found[name] = one = ratio(name, chosen.seconds)
        cpu, wall = ("×{:.4f} ({:.4f} to {:.4f})".format(*one[clock]) for clock in ("cpu", "wall"))
        print(f"{name}: {one['step_ms']:.3f} ms a step, {one['pairs']} pairs of {STEPS[name]} steps")
        print(f"  cpu {cpu}   wall {wall}   typical ×{one['typical']:.4f}   once {one['once_ms']:.0f} ms")
        print("  records, by their own clock: " + ", ".join(f"{k} {100 * v:.2f} %" for k, v in one["records"].items()))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
