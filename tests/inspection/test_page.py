"""docs/explain.md shows what its lines print; README.md shows the receipt that its lines make."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_it_prints():
    text = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    lines = "".join("\n" if line.startswith("```") else line for line in text.splitlines(keepends=True))
    page = doctest.DocTestParser().get_doctest(lines, {}, "explain.md", "docs/explain.md", 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(page)
    assert result.attempted > 20
    assert not result.failed


def test_the_receipt_in_the_readme_is_printed():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Where a loss comes from")[1].split("\n## ")[0]
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", section, flags=re.S)[:2]
    namespace: dict = {}
    exec(code, namespace)
    made, _, checks = str(namespace["explanation"]).partition("\n checks ")  # their number grows with the rules
    assert made == shown.partition("\n checks ")[0].rstrip("\n")
    assert "made, nothing found" in checks
    assert "made, nothing found" in shown
