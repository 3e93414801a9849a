"""Numbers as a reader takes them in: four decimals, powers of ten only where four decimals would say nothing."""

from __future__ import annotations

import math
from typing import Any

MINUS = "−"


def number(value: float, decimals: int = 4) -> str:
    """0.6914, −12.5000, 3.2e-05, ∞, nan."""
    if value is None or math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return f"{0:.{decimals}f}"
    size = abs(value)
    if size < 10.0 ** (1 - decimals) or size >= 1e7:
        text = f"{size:.{max(decimals - 2, 1)}e}"
    else:
        text = f"{size:.{decimals}f}"
    return (MINUS if value < 0 else "") + text


def factor(value: float) -> str:
    """A factor as somebody would type it: 0.1, 2, 1/3 as 0.3333."""
    return f"{value:.6g}".replace("-", MINUS)


def cell(value: Any, kind: str) -> str:
    """One cell of a table, as text; a dash for what is not known."""
    if value is None:
        return "·"
    if kind in ("text", "name"):
        return str(value)
    if kind == "integer":
        return f"{value:,}".replace("-", MINUS)
    if kind == "percent":
        return "nan" if math.isnan(value) else f"{100 * value:.1f} %".replace("-0.0 %", "0.0 %").replace("-", MINUS)
    if kind == "bits":
        return number(value, 3)
    return number(value)
