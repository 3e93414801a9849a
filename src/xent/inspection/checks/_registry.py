"""All rules, in the order of the catalogue. A file of rules is imported when it is first asked for."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from xent.errors import OptionError
from xent.inspection.checks._rule import Rule

# The file (in this folder) of each family: its RULES tuple is listed in this order.
FAMILIES = ("_softmaxes", "_gradients_over_steps")


@lru_cache(maxsize=1)
def all_rules() -> tuple[Rule, ...]:
    """Every rule."""
    found: list[Rule] = []
    for family in FAMILIES:
        found.extend(import_module(f"xent.inspection.checks.{family}").RULES)
    return tuple(found)


def rule_named(slug: str) -> Rule:
    """One rule.

    Raises:
        OptionError: there is none of this name.
    """
    for rule in all_rules():
        if rule.slug == slug:
            return rule
    raise OptionError(f"rule {slug!r}", _nearest(slug), "see xent doctor --list")


def chosen_rules(mute: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> tuple[Rule, ...]:
    """All rules, or `only` these, without the muted ones."""
    for slug in (*mute, *only):
        rule_named(slug)
    return tuple(rule for rule in all_rules() if rule.slug not in mute and (not only or rule.slug in only))


def _nearest(slug: str) -> str:
    import difflib

    near = difflib.get_close_matches(slug, [rule.slug for rule in all_rules()], 1)
    return f"did you mean {near[0]!r}" if near else "there is no rule of this name"
