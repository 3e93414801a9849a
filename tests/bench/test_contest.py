"""Alternation and arithmetic, on contestants whose times are known."""

from __future__ import annotations

import gc

import pytest
import torch

from xent.bench.contest import Entry, Pace, Timing, measure, ratios_to, warm_up
from xent.bench.needs import Need


class Clock:
    """Time passes only inside contestants."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def __call__(self) -> float:
        return self.now

    def entry(self, name: str, *seconds: float) -> Entry:
        turns = iter(range(10**6))

        def run() -> None:
            self.calls.append(name)
            self.now += seconds[next(turns) % len(seconds)]

        return Entry(run)


def fair(clock: Clock, entries: dict[str, Entry], pace: Pace) -> dict[str, Timing]:
    return measure(entries, pace, clock=clock, sleep=lambda seconds: None)


def test_contestants_alternate_forwards_and_backwards_and_take_turns_at_going_first() -> None:
    clock = Clock()
    entries = {name: clock.entry(name, 1.0) for name in "abc"}
    fair(clock, entries, Pace(min_rounds=6, max_rounds=6))
    rounds = "".join(clock.calls)[3:]  # a call of each says how many fill a stretch
    assert rounds == "abc" + "cba" + "bca" + "acb" + "cab" + "bac"


def test_medians_quartiles_and_ratios_are_those_of_the_known_times() -> None:
    clock = Clock()
    entries = {"torch": clock.entry("torch", 4.0), "xent": clock.entry("xent", 1.0, 2.0, 0.5, 1.0, 100.0)}
    timings = fair(clock, entries, Pace(min_rounds=5, max_rounds=5))
    assert timings["xent"].seconds == [2.0, 0.5, 1.0, 100.0, 1.0]  # after the one that sizes the stretch
    assert timings["xent"].median == 1.0
    assert timings["xent"].quartiles == (1.0, 2.0)
    assert ratios_to("torch", timings) == {"torch": 1.0, "xent": 4.0}
    written = timings["xent"].to_dict()
    assert (written["median_ms"], written["fastest_ms"], written["rounds"]) == (1000.0, 500.0, 5)


def test_short_calls_are_timed_together() -> None:
    clock = Clock()
    timing = fair(clock, {"a": clock.entry("a", 0.0005)}, Pace(min_rounds=3, max_rounds=3, stretch_seconds=0.002))["a"]
    assert timing.calls_per_round == 4
    assert timing.seconds == pytest.approx([0.0005] * 3)
    assert len(clock.calls) == 2 + 4 + 3 * 4


def test_a_stretch_is_not_sized_by_cold_calls() -> None:
    clock = Clock()
    entries = {"cold": clock.entry("cold", *[0.001] * 3, *[0.0001] * 500), "warm": clock.entry("warm", 0.0001)}
    timings = fair(clock, entries, Pace(min_rounds=3, max_rounds=3, stretch_seconds=0.00495))
    assert {name: timing.calls_per_round for name, timing in timings.items()} == {"cold": 50, "warm": 50}


def test_a_call_timed_alone_follows_an_untimed_one_unless_it_takes_long() -> None:
    clock = Clock()
    entries = {"a": clock.entry("a", 0.25, 0.5), "b": clock.entry("b", 1.0)}
    timings = fair(clock, entries, Pace(min_rounds=2, max_rounds=2))
    assert "".join(clock.calls) == "ab" + "aab" + "baa"
    assert timings["a"].seconds == [0.25, 0.25]  # the second of each pair, after the one that sizes the stretch


def test_a_long_sizing_call_is_a_round() -> None:
    clock = Clock()
    entries = {"long": clock.entry("l", 20.0, 30.0), "short": clock.entry("s", 1.0)}
    timings = fair(clock, entries, Pace(min_rounds=3, max_rounds=3))
    assert timings["long"].seconds == [20.0, 30.0, 20.0]
    assert timings["short"].seconds == [1.0] * 3
    assert "".join(clock.calls) == "ls" + "s" + "sl" + "sl"


def test_time_ends_a_contest_but_not_before_the_least_rounds() -> None:
    clock = Clock()
    assert len(fair(clock, {"a": clock.entry("a", 10.0)}, Pace(min_rounds=3, seconds=1.0))["a"].seconds) == 3
    assert len(fair(clock, {"a": clock.entry("a", 1.0)}, Pace(min_rounds=3, seconds=7.5))["a"].seconds) == 8


def test_every_call_begins_with_a_reset_and_the_collector_is_back_afterwards() -> None:
    events = []
    entry = Entry(lambda: events.append("run"), lambda: events.append("reset"))
    measure({"a": entry}, Pace(min_rounds=2, max_rounds=2, stretch_seconds=0.0, pause_seconds=0.0))
    assert "run,run" not in ",".join(events)
    assert gc.isenabled()


def test_warm_up_returns_the_last_result_and_its_time() -> None:
    clock = Clock()
    assert warm_up(clock.entry("a", 3.0, 1.0), clock=clock) == (None, 1.0)
    assert warm_up(clock.entry("a", 9.0, 1.0), clock=clock) == (None, 9.0)  # once is enough


RECORDS = {
    "xent": {"median_ms": 2.0, "extra_bytes": 300, "beyond_gradients_bytes": 100, "gradient_error": 1e-3},
    "torch": {"median_ms": 9.0, "gradient_error": 4e-3},
    "optax": {"note": "not here"},
    "chunked": {"note": "over the time limit", "single_ms": 80.0},
}


def test_ratios_are_of_one_run_and_who_was_stopped_gives_a_bound() -> None:
    records = {
        "xent": {"median_ms": 2.0, "beside": {"products": 1.0}},
        "products": {"median_ms": 5.0, "beside": {"xent": 10.0}},
        "optax": {"median_ms": 8.0, "beside": {"xent": 4.0, "products": 3.0}},
        "naive": {"note": "over the time limit", "at_least_ms": 60.0},
    }
    assert Need("times", 1.1, "products").verdict(records)["value"] == 2.0
    assert Need("speedup", 1.0, "optax").verdict(records)["value"] == 2.0
    stopped = Need("speedup", 1.0, "naive").verdict(records)
    assert (stopped["shown"], stopped["reached"]) == ("≥ 30.00×", True)
    assert Need("speedup", 31.0, "naive").verdict(records)["reached"] is None
    assert Need("times", 0.1, "naive").verdict(records)["shown"] == "≤ 0.03×"
    assert Need("times", 0.1, "xent", of="naive").verdict(records)["value"] is None


@pytest.mark.parametrize(
    ("need", "value", "reached"),
    [
        (Need("speedup", 4.5, "torch"), 4.5, True),
        (Need("speedup", 4.6, "torch"), 4.5, False),
        (Need("times", 0.25, "torch"), 2 / 9, True),
        (Need("times", 0.2, "torch"), 2 / 9, False),
        (Need("extra_memory", 299), 300, False),
        (Need("beyond_gradients", 100), 100, True),
        (Need("error", 0.004), 1e-3, True),
        (Need("error_times", 1.0, "torch"), 0.25, True),
        (Need("speedup", 2.0, "optax"), None, None),
        (Need("speedup", 3.0, "chunked"), 40.0, True),
        (Need("times", 2.0, "xent", of="xent-16MiB"), None, None),
    ],
)
def test_a_need_is_reached_missed_or_not_measured(need: Need, value: float | None, reached: bool | None) -> None:
    verdict = need.verdict(RECORDS)
    assert verdict["reached"] is reached
    assert verdict["value"] == (None if value is None else pytest.approx(value, rel=1e-3))
    assert verdict["text"]
    assert verdict["shown"]


def test_the_requirements_of_the_issues_are_all_asked() -> None:
    from xent.bench import questions

    loss, linear = (questions.named(name).cases(False) for name in ("cross-entropy", "linear"))
    assert len({case.name for case in [*loss, *linear]}) == len(loss) + len(linear)
    plain = next(case for case in loss if case.name == "both-float32-4096x32000")
    bounds = {(need.kind, need.against): need.bound for need in plain.needs}
    assert bounds[("speedup", "torch")] == 3.5
    assert bounds[("times", "clone")] == 1.0
    assert bounds[("extra_memory", "")] == 1.02 * 4096 * 32000 * 4
    third = next(case for case in linear if case.name == "bfloat16-1024x2304x256000")
    assert {(need.of, need.kind, need.against): need.bound for need in third.needs}[
        ("xent", "times", "products")
    ] == 1.5
    asked = {(2048, 768, 50257), (4096, 2048, 32000), (1024, 2304, 256000)}
    assert {case.shape for case in linear} == asked | {(256, 768, 16384)}  # the last for machines without bfloat16


def test_gradient_errors_against_float64() -> None:
    from xent.bench.truth import linear_gradient_error, loss_gradient_error

    torch.manual_seed(0)
    logits = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    target, weight = torch.randint(7, (3, 5)), torch.rand(7, dtype=torch.float64)
    loss = torch.nn.functional.cross_entropy(logits, target, weight, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    exact = loss_gradient_error(gradient, logits, target, weight, 0.1)
    assert exact < 1e-13  # two float64 formulas of the same thing
    # 1 % of ap − t is a little less of the scale, a·p + t
    assert 0.008 < loss_gradient_error(gradient * 1.01, logits, target, weight, 0.1) <= 0.01 + 1e-12

    hidden, head = torch.randn(9, 4, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    labels = torch.randint(30, (9,))
    labels[::2] = -100
    loss = torch.nn.functional.cross_entropy((hidden @ head.T).double(), labels)
    gradients = torch.autograd.grad(loss, (hidden, head))
    assert linear_gradient_error(*gradients, hidden.detach(), head.detach(), labels) < 1e-6  # float32 products
    assert linear_gradient_error(gradients[0], gradients[1] * 2, hidden.detach(), head.detach(), labels) > 0.9
