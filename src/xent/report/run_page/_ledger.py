"""The ledger of a recorded step, in what a table of it needs."""

from __future__ import annotations

from typing import Any

from xent.report.run_page._values import (
    LONG,
    as_dict,
    as_finite,
    as_list,
    as_number,
    as_records,
    as_text,
    as_whole,
    rounded,
)

_PARAMETERS, _ENTRIES, _STAGES, _OPTIMIZERS = 60, 6, 12, 4
_ENTRY = ("entry", "before", "gradient", "update", "after")


def ledger(record: dict[str, Any]) -> dict[str, Any] | None:
    """What `StepLedger.to_dict()` gave, bounded; None where nothing of it is here."""
    given = as_dict(record.get("ledger"))
    parameters = list(as_records(given.get("parameters")))
    if not parameters:
        return None
    return {
        "of": as_whole(given.get("num_parameters")) or len(parameters),
        "optimizers": [_optimizer(one) for one in list(as_records(given.get("optimizers")))[:_OPTIMIZERS]],
        "equality": _equality(given.get("equality")),
        "promise": {
            name: rounded(as_number(as_dict(given.get("loss")).get(name)))
            for name in ("before", "after", "predicted", "measured", "ratio")
        },
        "differences": [as_text(pair, LONG) for pair in as_list(as_dict(given.get("sets")).get("differences"))[:8]],
        "parameters": [_parameter(one) for one in parameters[:_PARAMETERS]],
    }


def _optimizer(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": as_text(given.get("name")),
        "formula": as_text(given.get("formula"), LONG),
        "unknown": as_text(given.get("unknown"), LONG),
        "change": as_text(as_dict(given.get("change")).get("words"), LONG),
    }


def _parameter(given: dict[str, Any]) -> dict[str, Any]:
    summaries = as_dict(given.get("summaries"))
    return {
        "name": as_text(given.get("name"), LONG),
        "shape": " × ".join(as_text(size, 12) for size in as_list(given.get("shape"))[:8]) or "scalar",
        "before": _summary(summaries.get("before")),
        "gradient": _summary(summaries.get("gradient")),
        "update": _summary(summaries.get("update")),
        "ratio": rounded(as_number(given.get("ratio")), 4),
        "because": as_text(given.get("because"), LONG),
        "unknown": as_text(given.get("unknown"), LONG),
        "equality": _equality(given.get("equality")),
        "parts": [
            [as_text(one.get("cause")), rounded(as_finite(one.get("share")), 4), rounded(as_finite(one.get("norm")), 4)]
            for one in list(as_records(given.get("parts")))[:_STAGES]
        ],
        "stages": [
            [as_text(one.get("name")), as_text(one.get("formula"), LONG), _summary(one.get("summary"))]
            for one in list(as_records(given.get("stages")))[:_STAGES]
        ],
        "entries": [_entry(one) for one in list(as_records(given.get("entries")))[:_ENTRIES]],
        "notes": [as_text(note, LONG) for note in as_list(given.get("notes"))[:4]],
    }


def _summary(given: Any) -> list[Any] | None:
    """[norm, mean |x|, histogram] of a tensor."""
    found = as_dict(given)
    if not found:
        return None
    histogram = [as_whole(count) or 0 for count in as_list(found.get("histogram"))[:21]]
    return [rounded(as_number(found.get("norm")), 4), rounded(as_number(found.get("mean_abs")), 4), histogram]


def _entry(given: dict[str, Any]) -> list[Any]:
    return [as_text(given.get(_ENTRY[0]), 40), *(rounded(as_number(given.get(name)), 6) for name in _ENTRY[1:])]


def _equality(given: Any) -> dict[str, Any] | None:
    found = as_dict(given)
    return {"holds": found.get("holds") is True, "words": as_text(found.get("words"))} if found else None
