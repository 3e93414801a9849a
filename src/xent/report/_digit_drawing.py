"""Small grey images as characters, side by side."""

from __future__ import annotations

from collections.abc import Sequence

_SHADES = " ░▒▓█"


def drawn(pixels: Sequence[Sequence[float]]) -> list[str]:
    """An image of values in [0, 1], two characters wide for each pixel; large ones at half their size."""
    rows = [list(row) for row in pixels]
    if len(rows) > 16:
        rows = [[_mean(rows, y, x) for x in range(0, len(rows[0]) - 1, 2)] for y in range(0, len(rows) - 1, 2)]
    return ["".join(_SHADES[min(int(value * len(_SHADES)), len(_SHADES) - 1)] * 2 for value in row) for row in rows]


def _mean(rows: Sequence[Sequence[float]], y: int, x: int) -> float:
    return (rows[y][x] + rows[y][x + 1] + rows[y + 1][x] + rows[y + 1][x + 1]) / 4


def beside(blocks: Sequence[Sequence[str]], gap: int = 4) -> list[str]:
    """Blocks of lines next to one another, each as wide as its widest line."""
    height = max((len(block) for block in blocks), default=0)
    widths = [max((len(line) for line in block), default=0) for block in blocks]
    lines = []
    for number in range(height):
        parts = [(block[number] if number < len(block) else "").ljust(size) for block, size in
                 zip(blocks, widths, strict=True)]  # fmt: skip
        lines.append((" " * gap).join(parts).rstrip())
    return lines
