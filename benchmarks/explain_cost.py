"""What an explanation costs beside the loss it explains: time in forward passes, memory beyond what is held.

    python benchmarks/explain_cost.py [ROWS CLASSES]        8192 128256 when left out: needs 14 GiB

Both of the loss's own backends and torch's loss are explained, the receipt is made, and the limits of the issue are
checked: less than 1.5 forward passes, less than 200 MB.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F

import xent

MOST_PASSES, MOST_BYTES, ROUNDS = 1.5, 200e6, 3
T = TypeVar("T")


def peak_bytes() -> int:
    """The most memory this process has held since the mark was reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def held_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def measured(call: Callable[[], T]) -> tuple[float, int, T]:
    """The least seconds of some calls, the most bytes beyond those held before, the last result."""
    seconds, most = float("inf"), 0
    result = None
    for _ in range(ROUNDS):
        result = None
        Path("/proc/self/clear_refs").write_text("5")
        before = held_bytes()
        start = time.perf_counter()
        result = call()
        seconds = min(seconds, time.perf_counter() - start)
        most = max(most, peak_bytes() - before)
    return seconds, most, result  # type: ignore[return-value]


def main() -> int:
    num_rows, num_classes = (int(part) for part in (sys.argv[1:3] or ("8192", "128256")))
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(num_rows, num_classes).normal_(generator=generator).requires_grad_()
    target = torch.randint(num_classes, (num_rows,), generator=generator)
    xent.explain(F.cross_entropy(logits[:4].detach().requires_grad_(), target[:4]))  # imports are no cost of a call
    status = 0
    print(f"{num_rows} × {num_classes} float32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, loss_of in (("torch", F.cross_entropy), ("xent", xent.cross_entropy)):
        forward, _, loss = measured(lambda loss_of=loss_of: loss_of(logits, target))
        seconds, most, explanation = measured(lambda loss=loss: _receipt(loss))
        passes = seconds / forward
        held = passes < MOST_PASSES and most < MOST_BYTES
        status |= not held
        print(
            f"{name:6} forward {forward:.3f} s   explain {seconds:.3f} s = {passes:.2f} passes, {most / 1e6:.0f} MB"
            f"   {'ok' if held else 'OVER THE LIMIT'}   {explanation!r}"
        )
        del loss, explanation
    return status


def _receipt(loss: torch.Tensor) -> xent.Explanation:
    explanation = xent.explain(loss)
    str(explanation)
    return explanation


if __name__ == "__main__":
    sys.exit(main())
