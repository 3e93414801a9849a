"""How much torch's allocator held at most: exact, and the same on every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_of_tensors(function: Callable[[], Any]) -> int:
    """The most bytes of tensors that `function` held at once, less what stood before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    results = recorded.profiler.kineto_results  # pyright: ignore[reportOptionalMemberAccess]
    held = peak = 0
    for event in results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
