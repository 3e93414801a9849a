"""All rules, in the order of the catalogue. A file of rules is imported when it is first asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from xent.errors import OptionError

if TYPE_CHECKING:
    from xent.inspection.checks._rule import Rule

# The file (in this folder) of each family; it ends with RULES.
FAMILIES = (
    "_softmaxes",
    "_sigmoids",
    "_log_probs",
    "_normalised_dims",
    "_class_dims",
    "_target_forms",
    "_probability_targets",
    "_targets",
    "_gradients_over_steps",
    "_cleared_gradients",
    "_by_hand",
    "_denominators",
    "_divergences",
    "_label_shifts",
    "_lost_dims",
    "_padding",
    "_precision",
    "_parameters",
    "_unreached",
    "_scaled_gradients",
    "_kept_graphs",
    "_means",
    "_perplexity",
    "_ragged",
    "_step_sizes",
    "_first_losses",
    "_stuck",
)
# Every slug, in the order in which it is listed; known without torch, so that a wrong --mute is told at once.
CATALOGUE = (
    "softmax-before-cross-entropy",
    "sigmoid-before-cross-entropy",
    "log-softmax-twice",
    "nll-without-log-probs",
    "softmax-wrong-dim",
    "classes-not-dim-1",
    "view-instead-of-transpose",
    "sigmoid-twice",
    "logits-into-bce",
    "bce-target-outside-0-1",
    "one-class",
    "target-dtype-or-shape",
    "soft-target-not-distribution",
    "class-index-out-of-range",
    "all-ignored",
    "ignore-index-suspect",
    "weighted-mean-denominator",
    "label-smoothing-floor",
    "low-precision-loss",
    "hand-written-log-softmax",
    "nll-index-wrong",
    "kl-div-misuse",
    "batch-dim-lost",
    "logits-edited-in-place",
    "labels-not-shifted",
    "labels-shifted-twice",
    "eos-masked-as-pad",
    "parameter-not-registered",
    "parameter-not-in-optimizer",
    "parameter-unreached",
    "stale-gradients",
    "gradients-cleared-before-step",
    "mean-of-means",
    "mean-of-means-across-ranks",
    "perplexity-of-means",
    "step-overshoots",
    "stuck-at-prior",
    "initial-loss-too-high",
    "clip-before-unscale",
    "loss-kept-alive",
    "ragged-last-batch",
)


@lru_cache(maxsize=1)
def all_rules() -> tuple[Rule, ...]:
    """Every rule that is written."""
    found: list[Rule] = []
    for family in FAMILIES:
        found.extend(import_module(f"xent.inspection.checks.{family}").RULES)
    return tuple(sorted(found, key=lambda rule: CATALOGUE.index(rule.slug)))


def rule_named(slug: str) -> Rule:
    """One rule.

    Raises:
        OptionError: there is none of this name.
    """
    check_names([slug])
    for rule in all_rules():
        if rule.slug == slug:
            return rule
    raise OptionError(f"rule {slug!r}", "it is in the catalogue and not written yet", "see xent doctor --list")


def check_names(slugs: Iterable[str]) -> None:
    """Whether these are rules.

    Raises:
        OptionError: one is not.
    """
    for slug in slugs:
        if slug not in CATALOGUE:
            near = difflib.get_close_matches(slug, CATALOGUE, 1)
            need = f"did you mean {near[0]}?" if near else "there is no rule of this name"
            raise OptionError(f"rule {slug!r}", need.rstrip("?"), "xent doctor --list has all of them")


def chosen_rules(mute: Iterable[str] = (), only: Iterable[str] = ()) -> tuple[Rule, ...]:
    """All rules, or `only` these, without the muted ones."""
    mute, only = set(mute), set(only)
    check_names([*mute, *only])
    return tuple(rule for rule in all_rules() if rule.slug not in mute and (not only or rule.slug in only))
