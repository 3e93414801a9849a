"""What an ASCII terminal shows of our letters."""

from __future__ import annotations

import pytest

from xent.report._letters import PLAIN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("xent doctor · 1 error", "xent doctor - 1 error"),
        ("(4·3) − 1 … |g·Δ| ≤ 2 × 10² + 10⁻⁶", "(4*3) - 1 ~ |g*d| <= 2 x 10^2 + 10^-6"),
        ("├──●○──┤", "|--*o--|"),
        ("953 µs, β₁ = ½, ω, ĝ", "953 us, beta1 = 1/2, omega, g"),
        ("café 漢", "cafe ?"),
    ],
)
def test_letters(text: str, shown: str) -> None:
    assert text.encode("ascii", PLAIN).decode() == shown


def test_an_encoding_that_has_them_changes_nothing() -> None:
    assert "− … ·".encode("utf-8", PLAIN) == "− … ·".encode()
