"""The page of each rule: docs/rules/<slug>.md, which the wheel carries as rules/<slug>.md."""

from __future__ import annotations

from pathlib import Path

from xent.inspection.checks._rule import Rule

_PLACES = (Path(__file__).parent / "rules", Path(__file__).parents[4] / "docs" / "rules")


def page_of(rule: Rule) -> str:
    """What `xent doctor --explain` shows; where the page is not there, what the rule says of itself."""
    for folder in _PLACES:
        path = folder / f"{rule.slug}.md"
        if path.is_file():
            return path.read_text(encoding="utf-8").rstrip()
    return text_of(rule)


def text_of(rule: Rule) -> str:
    """The rule in its own words."""
    needs = f"\n\nNeeds: {'; '.join(rule.needs)}." if rule.needs else ""
    return (
        f"# {rule.slug}\n\n{rule.title}. {rule.severity}, {rule.certainty}.{needs}\n\n"
        f"## Mistaken\n\n```python\n{rule.example.strip()}\n```\n\n"
        f"## Mended\n\n```python\n{rule.corrected.strip()}\n```"
    )
