"""One run as the plain values that the page draws: curves in buckets, samples at chosen steps, what was left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from xent.report.run_page import _samples
from xent.report.run_page._layers import layers
from xent.report.run_page._records import PARTS, RunRecords, Step
from xent.report.run_page._thinning import MOST, curve, in_buckets, spread
from xent.report.run_page._values import LONG, as_dict, as_finite, as_list, as_number, as_text, as_whole, rounded

_MOST_EVALUATIONS = 200
_DOCTORS_STEPS = 21  # its work is part of their time; a test holds this beside the number of the watch
_MOST_OPTIMIZERS = 4  # that have a curve each
_APART = 1e-6  # relative: where the mean of means is another number, not the same one rounded


def run_data(run: RunRecords, runs: int) -> dict[str, Any]:
    """What the page knows of a run.

    Args:
        run: its records.
        runs: how many stand on the page; each has its part of the room.
    """
    steps, header = _over_ranks(run), run.main.header
    most = max(MOST // runs, 120)
    return {
        "name": as_text(header.get("name")) or _directory_name(run.directory),
        "path": as_text(str(run.directory), LONG),
        "started": as_text(header.get("started"), 40),
        "steps": _last_step(run, steps),
        "parameters": as_whole(header.get("num_parameters")),
        "status": _status(run),
        "notes": _notes(run, steps, most),
        "ruler": _ruler(run.main.ruler),
        **_curves(steps, most),
        "turns": _turns(steps, most),
        "lost": _lost(steps),
        "in_nats": not steps or any(one.denominator is not None for one in steps),
        "evaluations": _evaluations(run),
        "throughput": _points([(one.step, one.rows_per_second) for one in steps], most),
        "means": _means(steps, most),
        "time": _time(steps),
        "layers": layers(run.main.kinds["layers"]),
        **_samples.samples(_kinds(run), runs),
        "setup": _setup(header),
    }


def _kinds(run: RunRecords) -> dict[str, list[dict[str, Any]]]:
    """What rank 0 wrote, and what was found on any."""
    found = [finding for records in (run.main, *run.others) for finding in records.kinds["finding"]]
    return defaultdict(list, {**run.main.kinds, "finding": found})


def _over_ranks(run: RunRecords) -> list[Step]:
    """The steps of rank 0, with the sums of the other ranks added where they recorded the same step."""
    if not run.others:
        return run.main.steps
    at: dict[int, list[Step]] = defaultdict(list)
    for records in run.others:
        for one in records.steps:
            at[one.step].append(one)
    return [_joined([one, *at[one.step]]) for one in run.main.steps]


def _joined(ranks: list[Step]) -> Step:
    first = ranks[0]
    ranks = [one for one in ranks if one.denominator != 0]  # of ranks that share rows one counts them
    if len(ranks) == 1:
        return ranks[0]
    total, count = _sum(ranks, "sum_nll"), _sum(ranks, "denominator")
    if total is None or not count:
        return first
    pieces = sum(one.pieces for one in ranks)
    means = [(one.loss if one.mean_of_means is None else one.mean_of_means) for one in ranks]
    known = [mean * one.pieces for mean, one in zip(means, ranks, strict=True) if mean is not None]
    return first._replace(
        loss=total / count,
        sum_nll=total,
        denominator=count,
        mean_of_means=sum(known) / pieces if len(known) == len(ranks) else None,
        pieces=pieces,
        rows_per_second=_sum(ranks, "rows_per_second"),
        accuracy=_pooled_accuracy(ranks),
    )


def _sum(ranks: list[Step], name: str) -> float | None:
    found = [getattr(one, name) for one in ranks]
    return None if None in found else sum(found)


def _pooled_accuracy(ranks: list[Step]) -> float | None:
    if any(one.accuracy is None or not one.denominator for one in ranks):
        return None
    return sum((one.accuracy or 0) * (one.denominator or 0) for one in ranks) / sum(
        one.denominator or 0 for one in ranks
    )


def _last_step(run: RunRecords, steps: Sequence[Step]) -> int:
    """How far the run got: the last step is seldom one of the recorded ones."""
    ended = [as_whole(record.get("steps")) for record in run.main.kinds["end"]]
    measured = [as_whole(record.get("step")) for record in run.main.kinds["evaluation"]]
    return max([0, *(one.step for one in steps), *(step for step in ended + measured if step is not None)])


def _directory_name(directory: Path) -> str:
    return as_text(directory.resolve().name)


def _status(run: RunRecords) -> dict[str, Any]:
    end = (run.main.kinds["end"] or [{}])[-1]
    changed = datetime.fromtimestamp(run.last_change(), UTC)
    return {
        "word": as_text(end.get("status"), 20) or "no end",
        "seconds": as_finite(end.get("seconds")),
        "error": as_text(end.get("error"), LONG),
        "changed": changed.isoformat(timespec="seconds"),
    }


def _notes(run: RunRecords, steps: Sequence[Step], most: int) -> list[str]:
    files, notes = [run.main, *run.others], []
    if not run.main.header:
        notes.append("The records begin without a line of kind run: configuration and machine are not known.")
    if any(one.cut for one in files):
        notes.append(
            "The last line of the records is not whole (its writer was stopped, or is writing it) and left out."
        )
    if broken := sum(one.broken for one in files):
        notes.append(f"{broken:,} {'line is' if broken == 1 else 'lines are'} no record and left out.")
    if len(steps) > most:
        size = math.ceil(len(steps) / most)
        notes.append(
            f"{len(steps):,} recorded steps are drawn as {most} points: each is the mean of up to {size:,} steps, "
            "the band behind it goes from their lowest to their highest."
        )
    world = as_whole(run.main.header.get("world_size")) or 1
    if world > 1:
        here = 1 + len(run.others)
        notes.append(
            f"{here} of {world} ranks have records here; the loss is Σ nll ÷ Σ count over "
            f"{'all of them' if here == world else 'those'}."
        )
    wrong = [one for one in steps if one.loss is not None and not math.isfinite(one.loss)]
    if wrong:
        count = "one recorded step" if len(wrong) == 1 else f"{len(wrong):,} recorded steps"
        notes.append(f"The loss of {count} is not finite, first at step {wrong[0].step:,}.")
    return notes


def _ruler(ruler: dict[str, Any]) -> dict[str, Any]:
    return {
        "floor": rounded(as_finite(ruler.get("floor")), 10),
        "prior": rounded(as_finite(ruler.get("prior")), 10),
        "uniform": rounded(as_finite(ruler.get("uniform")), 10),
        "classes": as_whole(ruler.get("num_classes")),
    }


def _loss(steps: Sequence[Step], most: int) -> list[list[float | None]]:
    sums = {one.step: one for one in steps}

    def mean(bucket: Sequence[tuple[int, float | None]]) -> float | None:
        found = [sums[step] for step, value in bucket if value is not None and math.isfinite(value)]
        if found and all(one.denominator and one.sum_nll is not None for one in found):
            return math.fsum(one.sum_nll or 0 for one in found) / sum(one.denominator or 0 for one in found)
        return math.fsum(one.loss or 0 for one in found) / len(found) if found else None

    return _points([(one.step, one.loss) for one in steps], most, mean)


def _curves(steps: Sequence[Step], most: int) -> dict[str, Any]:
    return {
        "loss": _loss(steps, most),
        "accuracy": _points([(one.step, one.accuracy) for one in steps], most),
        "rates": _points([(one.step, next(iter(one.learning_rates), None)) for one in steps], most),
    }


def _turns(steps: Sequence[Step], most: int) -> list[dict[str, Any]]:
    """The curves of each optimizer, where several step on losses of their own: a GAN's are two, not one zigzag."""
    of: dict[int | None, list[Step]] = defaultdict(list)
    for one in steps:
        of[one.optimizer].append(one)
    if len(of) < 2 or len(of) > _MOST_OPTIMIZERS:
        return []
    return [
        {"optimizer": number, **_curves(some, most // len(of))}
        for number, some in sorted(of.items(), key=lambda pair: -1 if pair[0] is None else pair[0])
    ]


def _lost(steps: Sequence[Step]) -> dict[str, Any] | None:
    """The last loss where it is not finite, and since when none is; the last finite one would pass for the result."""
    known = [one for one in steps if one.loss is not None]
    last_finite = max((place for place, one in enumerate(known) if math.isfinite(one.loss or 0)), default=-1)
    since = known[last_finite + 1 :]
    return {"since": since[0].step, "value": since[-1].loss} if since else None


def _points(
    values: Sequence[tuple[int, float | None]], most: int, mean: Callable[..., float | None] | None = None
) -> list[list[float | None]]:
    """[first step, last step, mean] of each bucket, and its lowest and highest where it is wider than a step."""
    if all(value is None for _, value in values):
        return []
    return [
        [first, last, rounded(middle)] + ([] if first == last else [rounded(low), rounded(high)])
        for first, last, middle, low, high in curve(values, mean, most)
    ]


def _evaluations(run: RunRecords) -> list[dict[str, Any]]:
    by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in run.main.kinds["evaluation"]:
        step = as_whole(record.get("step"))
        if step is not None:
            by_split[as_text(record.get("split"), 20)].append(
                {
                    "step": step,
                    "loss": rounded(as_number(record.get("loss")), 10),
                    "accuracy": rounded(as_finite(record.get("accuracy"))),
                    "count": as_finite(record.get("count")),
                }
            )
    return [
        {"split": split, "of": len(found), "points": spread(found, _MOST_EVALUATIONS)}
        for split, found in list(by_split.items())[:4]
    ]


def _means(steps: Sequence[Step], most: int) -> dict[str, Any] | None:
    """Σ nll ÷ Σ count beside the mean of the micro-batches' means, where these differ."""
    both = [
        (one, one.mean_of_means - one.loss)
        for one in steps
        if one.mean_of_means is not None and one.loss is not None and math.isfinite(one.mean_of_means - one.loss)
    ]
    apart = [(one, by) for one, by in both if abs(by) > _APART * abs(one.loss or 1)]
    if not both:
        return None
    worst = max(both, key=lambda pair: abs(pair[1]))
    return {
        "steps": len(both),
        "apart": len(apart),
        "worst": {"step": worst[0].step, "true": worst[0].loss, "mean": worst[0].mean_of_means},
        "true": _points([(one.step, one.loss) for one, _ in both], most) if apart else [],
        "mean": _points([(one.step, one.mean_of_means) for one, _ in both], most) if apart else [],
    }


def _time(steps: Sequence[Step]) -> dict[str, Any] | None:
    timed = [one for one in steps if any(second is not None for second in one.seconds)]
    if not timed:
        return None
    shares = []
    for bucket in in_buckets(timed, 80):
        sums = [math.fsum(one.seconds[place] or 0 for one in bucket) for place in range(len(PARTS))]
        whole = math.fsum(sums) or 1.0
        shares.append([bucket[0].step, bucket[-1].step, *(rounded(part / whole, 4) for part in sums)])
    usual = [one for one in timed if one.step > _DOCTORS_STEPS] or timed
    return {
        "parts": PARTS,
        "shares": shares,
        "median": [rounded(median(found)) if (found := _known(usual, place)) else None for place in range(len(PARTS))],
        "total": [rounded(math.fsum(_known(usual, place))) for place in range(len(PARTS))],
        "steps": len(usual),
        "after": _DOCTORS_STEPS if len(usual) < len(timed) else None,
    }


def _known(steps: Sequence[Step], place: int) -> list[float]:
    return [second for one in steps if (second := one.seconds[place]) is not None]


def _setup(header: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": _texts(header.get("config")),
        "machine": _texts(header.get("machine")),
        "versions": _texts(header.get("versions")),
        "command": " ".join(as_text(word, LONG) for word in as_list(header.get("command"))[:50]),
    }


def _texts(value: Any) -> dict[str, str]:
    return {as_text(name): _as_typed(entry) for name, entry in list(as_dict(value).items())[:200]}


def _as_typed(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    return as_text(value, LONG) or "–"
