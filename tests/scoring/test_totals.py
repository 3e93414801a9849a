"""Are totals sums over tokens, whatever they are cut into?"""

from __future__ import annotations

import math

import pytest

from xent.scoring._totals import Totals


def test_a_total_is_no_mean_of_means() -> None:
    short, long = Totals(nats=9.0, tokens=1, entropy=1.0), Totals(nats=1.0, tokens=99, entropy=3.0)
    for totals in (Totals.sum([short, long]), Totals.sum([long, short])):
        assert totals.means()["nats_per_token"] == 10.0 / 100
        assert totals.means()["perplexity"] == math.exp(0.1)


def test_the_order_of_the_parts_does_not_matter() -> None:
    parts = [Totals(nats=nats, tokens=1) for nats in (1e16, 1.0, -1e16, 1.0)]
    assert Totals.sum(parts).nats == Totals.sum(parts[::-1]).nats == 2.0


def test_sizes_of_a_text() -> None:
    totals = Totals()
    totals.add_text("naïve café ")
    assert (totals.bytes, totals.characters, totals.words) == (
        13,
        11,
        3,
    )  # the harness counts the empty piece at the end
    assert totals.means() == {}


def test_a_perplexity_beyond_doubles_is_infinite() -> None:
    assert Totals(nats=1e4, tokens=1).means()["perplexity"] == math.inf
    assert Totals(nats=1e4, tokens=10_000).means()["perplexity"] == pytest.approx(math.e)
