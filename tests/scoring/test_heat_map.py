"""Does the page show every token as it is, and let nothing in it act?"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from xent.scoring import _heat_map
from xent.scoring._heat_map import write_heat_map
from xent.scoring._totals import Totals
from xent.scoring.score import Scored


def _scored(tokens: list[str | None], bits: list[float | None]) -> Scored:
    numbers: list[Any] = [value if value is None else value * 0.6931 for value in bits]
    columns = {
        "row": [3] * len(tokens), "position": [*range(len(tokens))], "id": [*range(len(tokens))], "token": tokens,
        "nats": numbers, "bits": bits, "rank": [None if value is None else 7 for value in bits], "entropy": numbers,
    }  # fmt: skip
    return Scored(Totals(tokens=sum(value is not None for value in bits), unscored=bits.count(None)), columns)


def test_text_is_inert_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    tokens = ["<script>alert(1)</script>", "&amp;", '" onclick="x', "a\nb", "\u202e", "", "end"]
    write_heat_map(path, "<b>title</b>", _scored([*tokens], [None, 0.1, 1.0, 3.0, 20.0, 2.0, 8.5]), ["model      <i>m"])
    page = path.read_text("utf-8")
    assert "<script" not in page
    assert 'onclick="x' not in page
    assert "<b>title" not in page
    assert "<i>m" not in page
    assert "\u202e" not in page
    assert "⟨U+202E⟩" in page
    assert "default-src 'none'; style-src 'sha256-" in html.unescape(page)
    assert "http" not in page.replace("http-equiv", "")
    text = re.search(r'<p class="text".*?</p>', page, re.S)
    assert text
    assert re.findall(r'<span class="(\w+)"', text[0]) == ["unscored", "s0", "s2", "s4", "s9", "s3", "s7"]
    assert "<td>20" in page  # the most surprising comes first
    assert page.index("<td>20") < page.index("<td>8.5")


def test_a_token_of_white_space_is_seen_in_the_table(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_heat_map(path, "title", _scored(["a\n", "b", "\n", " c"], [None, 1.0, 3.0, 2.0]), [])
    cells = re.findall(r'<td class="(?:before|token)"><bdi>(.*?)</bdi>', path.read_text("utf-8"), re.S)
    assert cells == ["a⏎b", "⏎", "a⏎b⏎", "␣c", "a⏎", "b"]


def test_many_tokens_are_cut_and_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("xent.scoring._shard_work.SHOWN", 5)
    whole = _scored(["a"] * 8, [1.0] * 8)
    scored = Scored(Totals(tokens=8))
    scored.show(whole.shown)
    scored.show(whole.shown)
    path = tmp_path / "page.html"
    write_heat_map(path, "title", scored, [])
    page = path.read_text("utf-8")
    assert "The first 5 of 8 tokens are shown" in page
    assert len(_heat_map._rows(scored)) == 5


def test_rows_without_texts(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    scored = _scored([None, None], [1.0, 2.0])
    scored.shown["position"] = [None, None]
    write_heat_map(path, "rows", scored, [])
    assert "<h3>rows" in path.read_text("utf-8")
