"""`python -m xent.bench.probe QUESTION CASE CONTESTANT`: one contestant in a process of its own; JSON on stdout."""

from __future__ import annotations

import argparse
import json
import time

from xent.bench import questions
from xent.bench.contest import grad_mode, warm_up
from xent.bench.machine import use_threads
from xent.bench.memory import peak_extra_bytes


def main() -> None:
    """Warm up, then measure one call."""
    parser = argparse.ArgumentParser()
    for name in ("question", "case", "contestant"):
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    use_threads(options.threads)
    question = questions.named(options.question)
    case = next(case for case in question.cases(options.quick) if case.name == options.case)
    with grad_mode(case.backward):
        entry = question.field(case).entry(options.contestant)
        print("{}", flush=True)
        _, seconds = warm_up(entry, calls=1)
        print(json.dumps({"seconds": round(seconds, 6)}), flush=True)
        entry.reset()
        begun = time.perf_counter()
        extra = peak_extra_bytes(entry.run)
        print(json.dumps({"extra_bytes": extra, "seconds": round(time.perf_counter() - begun, 6)}))


if __name__ == "__main__":
    main()
