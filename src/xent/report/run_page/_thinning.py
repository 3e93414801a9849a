"""Long series, in as many points as a page can draw: of every bucket its mean and its ends, so no spike is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

MOST = 600  # points of a curve: more than the pixels that most screens give it
T = TypeVar("T")


class Point(NamedTuple):
    """A bucket of a curve: steps first…last, its mean, smallest and largest value."""

    first: int
    last: int
    mean: float | None
    low: float | None
    high: float | None


def in_buckets(things: Sequence[T], most: int = MOST) -> Iterator[Sequence[T]]:
    """Consecutive parts, as equal as they can be, at most so many."""
    number = min(most, len(things))
    for place in range(number):
        yield things[place * len(things) // number : (place + 1) * len(things) // number]


def curve(
    values: Sequence[tuple[int, float | None]],
    mean: Callable[[Sequence[tuple[int, float | None]]], float | None] | None = None,
    most: int = MOST,
) -> list[Point]:
    """The curve of values by step.

    Args:
        values: step and value; a value that is None or not finite takes no part.
        mean: of a bucket, where it is not the mean of its values.
        most: how many points.
    """
    points = []
    for bucket in in_buckets(values, most):
        finite = [value for _, value in bucket if value is not None and math.isfinite(value)]
        middle = _mean(finite) if mean is None else mean(bucket)
        points.append(Point(bucket[0][0], bucket[-1][0], middle, min(finite, default=None), max(finite, default=None)))
    return points


def spread(things: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly over the whole, the first and the last included."""
    if len(things) <= most:
        return list(things)
    if most == 1:
        return [things[-1]]
    return [things[place * (len(things) - 1) // (most - 1)] for place in range(most)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
