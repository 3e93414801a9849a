"""What the page is made of: records read whole or in part, curves in buckets, bounded samples, runs compared."""

from __future__ import annotations

import json
import math
import os
import re
from html import unescape
from pathlib import Path

import pytest

from tests.report.written_runs import header, step, tokens, write
from xent.errors import OptionError, RunError
from xent.inspection.watching._first_steps import LAST_STEP
from xent.report.run_page import newest_run, write_report
from xent.report.run_page._comparison import page_data
from xent.report.run_page._library import library
from xent.report.run_page._records import records_of
from xent.report.run_page._thinning import curve, spread


def data_of(*directories: Path) -> dict:
    return page_data([records_of(directory) for directory in directories])


def test_a_cut_last_line_is_left_out_and_said_and_read_once_it_is_whole(tmp_path):
    run = write(tmp_path / "x", [header(), step(1, 2.0)])
    whole = json.dumps(step(2, 1.0)).encode()
    with (run / "records.jsonl").open("ab") as file:
        file.write(whole[:40])
    records = records_of(run)
    assert [one.step for one in records.main.steps] == [1]
    assert "not whole" in " ".join(page_data([records])["runs"][0]["notes"])
    with (run / "records.jsonl").open("ab") as file:
        file.write(whole[40:] + b"\n")
    assert records.read_on()
    assert [one.step for one in records.main.steps] == [1, 2]
    assert not records.read_on()
    assert page_data([records])["runs"][0]["notes"] == []


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        ([{"kind": "end", "status": "done", "steps": 90, "seconds": 1.0, "error": None}], 90),
        ([{"kind": "evaluation", "step": 45, "split": "train", "loss": 0.4, "count": 64, "accuracy": 0.9}], 45),
        ([{"kind": "end", "status": "done", "steps": "many"}], 2),
        ([], 2),
    ],
)
def test_the_steps_of_a_run_are_more_than_the_recorded_ones(tmp_path, last, steps):
    run = write(tmp_path / "x", [header(), step(1, 2.4), step(2, 2.3), *last])
    assert data_of(run)["runs"][0]["steps"] == steps


def test_lines_that_are_no_records_are_counted(tmp_path):
    run = write(tmp_path / "x", [header(), step(1, 2.0)])
    with (run / "records.jsonl").open("ab") as file:
        file.write(b"[1]\nnonsense\n\xff\xfe\n{}\n" + b"[" * 100_000 + b"\n")
        file.write(json.dumps({"kind": "of tomorrow"}).encode() + b"\n" + json.dumps(step(2, 1.0)).encode() + b"\n")
    records = records_of(run)
    assert len(records.main.steps) == 2
    assert records.main.broken == 5
    assert any("5 lines are no record" in note for note in page_data([records])["runs"][0]["notes"])


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True, 1e400, [None], {"a": None}])
def test_any_value_in_any_field_gives_a_page(tmp_path, value):
    """A record of another version, or of somebody's own making: nothing of it may stop the page."""
    names = [
        "loss", "sum_nll", "count", "micro_batches", "ruler", "accuracy", "learning_rates", "rows_per_second",
        "seconds", "layers", "classes", "of", "pieces", "rows", "bins", "ece", "ledger", "split", "rule", "message",
        "config", "machine", "versions", "command", "name", "num_parameters", "world_size", "started", "status",
    ]  # fmt: skip
    kinds = [
        "run", "step", "layers", "classes", "tokens", "worst_rows", "calibration", "ledger", "evaluation", "finding",
        "end",
    ]  # fmt: skip
    records = [{"kind": kind, "step": 1} | dict.fromkeys(names, value) for kind in kinds]
    nested = [
        {"kind": kind, "step": 2, **{name: [{"name": value, "text": value, "class": value}] for name in names}}
        for kind in kinds
    ]
    run = write(tmp_path / "x", [*records, *nested, {"kind": "step", "step": value}])
    json.dumps(data_of(run))


def test_numbers_that_are_not_finite_are_said_and_not_drawn(tmp_path):
    run = write(tmp_path / "x", [header(), step(1, 2.0), step(2, "nan"), step(3, "inf"), step(4, 1.0)])
    (found,) = data_of(run)["runs"]
    assert any("2 recorded steps is not finite, first at step 2" in note for note in found["notes"])
    assert [point[2] for point in found["loss"]] == [2.0, None, None, 1.0]


def test_a_loss_that_is_lost_is_the_last_one(tmp_path):
    """The last finite loss of a run that ended in NaN is not what it came to."""
    ends = {"x": [2.0, "nan", 1.9, "inf", "nan"], "y": [2.0, "nan", 1.9], "z": []}
    found = [
        data_of(write(tmp_path / name, [header(), *(step(n, loss) for n, loss in enumerate(losses, 1))]))["runs"][0]
        for name, losses in ends.items()
    ]
    assert found[0]["lost"]["since"] == 4
    assert math.isnan(found[0]["lost"]["value"])
    assert [one["lost"] for one in found[1:]] == [None, None]


def test_a_loss_without_a_count_is_in_no_known_unit(tmp_path):
    unknown = [step(n, 5.0, sum_nll=None, count=None, rows_per_second=None) for n in (1, 2)]
    (run,) = data_of(write(tmp_path / "x", [header(), *unknown]))["runs"]
    assert (run["in_nats"], run["throughput"]) == (False, [])
    (run,) = data_of(write(tmp_path / "y", [header(), *unknown, step(3, 2.0)]))["runs"]
    assert run["in_nats"]


def test_optimizers_that_step_in_turn_have_a_curve_each(tmp_path):
    steps = [step(n, float(n), optimizer=n % 2, learning_rates=[0.1 * (n % 2)]) for n in range(1, 7)]
    (run,) = data_of(write(tmp_path / "x", [header(), *steps]))["runs"]
    assert [turn["optimizer"] for turn in run["turns"]] == [0, 1]
    assert [[point[2] for point in turn["loss"]] for turn in run["turns"]] == [[2, 4, 6], [1, 3, 5]]
    assert [[point[2] for point in turn["rates"]] for turn in run["turns"]] == [[0, 0, 0], [0.1, 0.1, 0.1]]
    (run,) = data_of(write(tmp_path / "y", [header(), *(step(n, 1.0, optimizer=0) for n in (1, 2))]))["runs"]
    assert run["turns"] == []  # another optimizer that steps on the same losses has no records of its own


def test_a_curve_of_many_steps_keeps_its_ends_and_its_true_mean(tmp_path):
    """2,000 steps, one spike, batches of two sizes: the mean of a bucket is Σ nll ÷ Σ count, within float rounding."""
    counts = [64 if number % 2 else 16 for number in range(1, 2001)]
    losses = [50.0 if number == 777 else 1 + math.sin(number) / 2 for number in range(1, 2001)]
    both = list(zip(losses, counts, strict=True))
    run = write(tmp_path / "x", [
        header(), *(step(n, loss, sum_nll=loss * count, count=count) for n, (loss, count) in enumerate(both, 1))
    ])  # fmt: skip
    (found,) = data_of(run)["runs"]
    points = found["loss"]
    assert len(points) == 600
    assert points[0][0] == 1
    assert points[-1][1] == 2000
    assert max(point[4] for point in points) == 50
    assert min(point[3] for point in points) == pytest.approx(min(losses), rel=1e-5)  # a page shows six digits
    first, last, mean, *_ = next(point for point in points if point[0] <= 777 <= point[1])
    inside = both[first - 1 : last]
    assert mean == pytest.approx(sum(a * b for a, b in inside) / sum(b for _, b in inside), rel=1e-5)
    assert any("2,000 recorded steps are drawn as 600 points" in note for note in found["notes"])


def test_buckets_hold_every_step_once():
    for count in (1, 2, 599, 600, 601, 1999):
        points = curve([(number, float(number)) for number in range(count)], most=600)
        assert [step for point in points for step in range(point.first, point.last + 1)] == list(range(count))
    assert spread(list(range(10)), 3) == [0, 4, 9]
    assert spread([1, 2], 5) == [1, 2]


def test_the_true_mean_over_micro_batches_and_ranks(tmp_path):
    """Two ranks of 10 and 30 rows: 20 nats over 40 rows, where the mean of means is (1 + 1/3)/2."""
    run = write(tmp_path / "x", [header(world_size=2), step(1, 1.0, sum_nll=10.0, count=10)])
    (run / "records.rank1.jsonl").write_text(
        json.dumps(header(rank=1)) + "\n" + json.dumps(step(1, 1 / 3, sum_nll=10.0, count=30)) + "\n"
    )
    (found,) = data_of(run)["runs"]
    assert found["loss"] == [[1, 1, 0.5]]
    assert found["means"]["worst"] == {"step": 1, "true": 0.5, "mean": pytest.approx(2 / 3)}
    assert any("2 of 2 ranks" in note for note in found["notes"])


def test_of_ranks_that_share_rows_one_counts_them(tmp_path):
    """Vocabulary-parallel ranks: the second has the same 10 rows, and writes that it counts none."""
    run = write(tmp_path / "x", [header(world_size=2), step(1, 1.5, sum_nll=15.0, count=10)])
    found = {"kind": "finding", "step": 1, "rule": "r", "severity": "error", "certainty": "proved", "message": "m"}
    second = [header(rank=1), _empty(1), found]
    (run / "records.rank1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in second))
    (page,) = data_of(run)["runs"]
    assert page["loss"] == [[1, 1, 1.5]]
    assert page["means"] is None
    assert [one["rule"] for one in page["findings"]["list"]] == ["r"]


def test_a_step_at_which_rank_0_has_no_rows_that_count_is_that_of_the_other(tmp_path):
    run = write(tmp_path / "x", [header(world_size=2), _empty(1)])
    second = [header(rank=1), step(1, 1.5, sum_nll=15.0, count=10)]
    (run / "records.rank1.jsonl").write_text("".join(json.dumps(record) + "\n" for record in second))
    assert data_of(run)["runs"][0]["loss"] == [[1, 1, 1.5]]


def test_where_the_time_goes_is_told_without_the_steps_at_which_the_doctor_looks(tmp_path):
    usual = {"data": 1.0, "forward": 1.0, "loss": 1.0, "backward": 1.0, "step": 1.0, "other": 1.0}
    first = [step(number, 1.0, seconds={**usual, "other": 50.0}) for number in (1, LAST_STEP)]
    later = [step(number, 1.0, seconds=usual) for number in (LAST_STEP + 1, 40)]
    short, long = (data_of(write(tmp_path / name, [header(), *steps]))["runs"][0]["time"]
                   for name, steps in (("short", first), ("long", first + later)))  # fmt: skip
    assert (short["steps"], short["total"][-1], short["after"]) == (2, 100.0, None)
    assert (long["steps"], long["total"][-1], long["after"]) == (2, 2.0, LAST_STEP)
    assert [shares[0] for shares in long["shares"]] == [1, LAST_STEP, LAST_STEP + 1, 40]


def _empty(number: int) -> dict:
    return {**step(number, 1.0), "loss": None, "sum_nll": 0.0, "count": 0}


def test_a_run_whose_steps_know_no_classes_has_the_ruler_of_its_evaluations(tmp_path):
    nothing = {"floor": None, "prior": None, "uniform": None, "num_classes": None}
    measured = {"floor": 0.0, "prior": 2.0, "uniform": 2.5, "num_classes": 12}
    evaluation = {"kind": "evaluation", "step": 1, "split": "train", "loss": 1.0, "count": 4, "ruler": measured}
    run = write(tmp_path / "x", [header(), step(1, 1.0, ruler=nothing), evaluation, step(2, 1.0, ruler=nothing)])
    assert data_of(run)["runs"][0]["ruler"]["uniform"] == 2.5


def test_the_label_prior_is_that_of_the_data_where_an_evaluation_knows_it(tmp_path):
    seen = {"floor": 0.1, "prior": 2.2975, "uniform": 2.3026, "num_classes": 10}
    data = {"floor": 0.0, "prior": 2.3010, "uniform": 2.3026, "num_classes": 10}
    evaluation = {"kind": "evaluation", "step": 1, "split": "train", "loss": 1.0, "count": 4, "ruler": data}
    run = write(tmp_path / "x", [header(), evaluation, step(2, 1.0, ruler=seen)])
    assert data_of(run)["runs"][0]["ruler"] == {"floor": 0.1, "prior": 2.3010, "uniform": 2.3026, "classes": 10}
    evaluation["ruler"] = data | {"num_classes": 12}
    other = write(tmp_path / "y", [header(), evaluation, step(2, 1.0, ruler=seen)])
    assert data_of(other)["runs"][0]["ruler"]["prior"] == 2.2975


def test_micro_batches_of_one_size_have_one_mean(tmp_path):
    halves = [{"sum_nll": 3.0, "count": 4}, {"sum_nll": 5.0, "count": 4}]
    uneven = [{"sum_nll": 3.0, "count": 6}, {"sum_nll": 5.0, "count": 2}]
    run = write(tmp_path / "x", [header(), step(1, 1.0, sum_nll=8.0, count=8, micro_batches=halves)])
    assert data_of(run)["runs"][0]["means"]["apart"] == 0
    run = write(tmp_path / "y", [header(), step(1, 1.0, sum_nll=8.0, count=8, micro_batches=uneven)])
    means = data_of(run)["runs"][0]["means"]
    assert (means["apart"], means["worst"]["mean"]) == (1, 1.5)


def test_differences_between_runs(tmp_path):
    one = write(tmp_path / "one", [header("a", config={"lr": 0.5, "batch": 64})])
    two = write(tmp_path / "two", [header("b", config={"lr": 0.1, "batch": 64, "decay": True})])
    assert data_of(one, two)["differences"] == [
        {"group": "config", "name": "lr", "values": ["0.5", "0.1"]},
        {"group": "config", "name": "decay", "values": [None, "yes"]},
    ]
    assert data_of(one)["differences"] == []
    twice = write(tmp_path / "three", [header("a")])
    assert [run["name"] for run in data_of(one, twice)["runs"]] == ["a (one)", "a (three)"]


def test_ten_megabytes_of_text_are_cut(tmp_path):
    hostile = "<script>alert(1)</script>\u202e\x00'\"`" * 300_000
    records, hostile = [tokens(1, hostile)], hostile[:30_000]
    records.append({"kind": "tokens", "step": 3, "pieces": [{"text": "<b>", "nats": 1.0}] * 100_000})
    records.append({"kind": "finding", "step": 1, "rule": hostile, "message": hostile, "source": hostile})
    records.append({"kind": "classes", "step": 1, "classes": [{"name": hostile, "loss": 1, "count": 1}] * 1000})
    run = write(tmp_path / "x", [header(hostile, config={hostile: hostile}, command=[hostile] * 5), *records])
    write_report([run], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text("utf-8")
    assert len(page) < 1_500_000  # of which the charts' library takes 0.9 MB
    assert "<script>alert" not in page
    assert "\u202e" not in page.replace(library(), "")
    assert page.count("<script") == 4


def test_a_page_asks_for_nothing_and_allows_nothing(tmp_path):
    write_report([write(tmp_path / "x", [header(), step(1, 2.0)])], tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text("utf-8")
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'none'" in policy
    assert not re.search(r"\s(src|href)=[\"'](?!data:,|#)", page.split("<script")[0])


def test_what_a_report_can_not_be_made_of(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "empty", "holds no records.jsonl"), (tmp_path / "none", "is no directory")):
        with pytest.raises(RunError, match=words) as caught:
            write_report([path], tmp_path / "x.html")
        assert all((caught.value.got, caught.value.need, caught.value.do))
    run = write(tmp_path / "x", [header()])
    with pytest.raises(OptionError, match="no folder"):
        write_report([run], tmp_path / "none" / "x.html")
    assert not list(tmp_path.glob("*.html"))


def test_the_newest_run(tmp_path):
    with pytest.raises(RunError, match="no run under"):
        newest_run(tmp_path)
    for age, name in ((300, "old"), (100, "new"), (200, "older")):
        run = write(tmp_path / name, [header()])
        os.utime(run / "records.jsonl", (1e9 - age, 1e9 - age))
    assert newest_run(tmp_path) == tmp_path / "new"
