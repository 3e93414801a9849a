"""Run one check on many samples and report all that fail, not the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

SHOWN = 5


def check_every(samples: Iterable[Any], check: Callable[[Any], None]) -> int:
    """Number of samples, all of which passed."""
    samples = list(samples)
    failures = [(sample, error) for sample in samples if (error := _failure(check, sample)) is not None]
    if failures:
        lines = [f"  {sample}\n    {type(error).__name__}: {str(error).strip()[:600]}" for sample, error in failures]
        raise AssertionError(f"{len(failures)} of {len(samples)} samples fail\n" + "\n".join(lines[:SHOWN])) from (
            failures[0][1]
        )
    assert samples, "no samples"
    return len(samples)


def _failure(check: Callable[[Any], None], sample: Any) -> Exception | None:
    try:
        check(sample)
    except Exception as error:
        return error
    return None
