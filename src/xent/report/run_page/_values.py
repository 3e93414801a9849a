"""Values out of a file that anybody may have written: of the kind that is wanted, bounded, or None."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

SHORT, LONG = 80, 400  # characters of a name, and of a sentence


def as_number(value: Any) -> float | None:
    """A float, finite or not ("nan", "inf", "-inf" are how JSON carries them); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def as_finite(value: Any) -> float | None:
    """A finite float, or None."""
    found = as_number(value)
    return found if found is not None and math.isfinite(found) else None


def as_whole(value: Any) -> int | None:
    """A whole number from 0 to 2⁵³, which JavaScript holds exactly, or None."""
    found = as_finite(value)
    return int(found) if found is not None and 0 <= found <= 2**53 else None


def as_text(value: Any, most: int = SHORT) -> str:
    """A text of at most so many characters, what is left out counted; other values as JSON would have them."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _written(value, most)
    return text if len(text) <= most else f"{text[:most]}… (+{len(text) - most:,} characters)"


def as_records(value: Any) -> Iterator[dict[str, Any]]:
    """The dicts of a list."""
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else iter(())


def as_dict(value: Any) -> dict[str, Any]:
    """A dict, or an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def rounded(value: float | None, digits: int = 6) -> float | None:
    """A number with the digits that a page can show: a third of the characters that float64 takes."""
    if value is None or not math.isfinite(value):
        return value
    return float(f"{value:.{digits}g}")


def _written(value: Any, most: int) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} = {as_text(entry, most)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(entry, most) for entry in value)
    return str(value)
