"""What was recorded at chosen steps: classes, tokens, worst rows, calibration, ledgers, findings. All of it bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xent.report.run_page._ledger import ledger
from xent.report.run_page._thinning import spread
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

_STEPS = 36  # of a kind, on a page of one run
_CLASSES, _ROWS, _BINS, _PIECES, _FINDINGS = 40, 12, 50, 400, 60
_PIECE = 40  # characters of a token
_SIDE = 32  # pixels of a picture

Kinds = dict[str, list[dict[str, Any]]]


def samples(kinds: Kinds, runs: int) -> dict[str, Any]:
    """Of each kind the steps that fit, and how many there were."""
    most = max(_STEPS // runs, 6)
    return {
        "classes": _chosen(kinds["classes"], _classes, most),
        "tokens": _chosen(kinds["tokens"], _tokens, most),
        "worst": _chosen(kinds["worst_rows"], _worst, most),
        "calibration": _chosen(kinds["calibration"], _calibration, most),
        "ledgers": _chosen(kinds["ledger"], ledger, max(12 // runs, 3)),
        "findings": _findings(kinds["finding"]),
    }


def _chosen(records: list[dict[str, Any]], part: Callable[[dict[str, Any]], Any], most: int) -> dict[str, Any]:
    """The newest record of each step; of many steps some, evenly, the first and the last included."""
    at = {step: record for record in records if (step := as_whole(record.get("step"))) is not None}
    read = [{"step": step, **found} for step in spread(sorted(at), most) if (found := part(at[step]))]
    return {"of": len(at), "steps": read}


def _classes(record: dict[str, Any]) -> dict[str, Any] | None:
    given = list(as_records(record.get("classes")))
    found = [
        {
            "name": as_text(one.get("name")) or as_text(one.get("class")),
            "loss": rounded(as_number(one.get("loss"))),
            "count": as_finite(one.get("count")),
            "accuracy": rounded(as_finite(one.get("accuracy"))),
        }
        for one in given[:_CLASSES]
    ]
    return {"of": as_whole(record.get("of")) or len(given), "classes": found} if found else None


def _tokens(record: dict[str, Any]) -> dict[str, Any] | None:
    given = list(as_records(record.get("pieces")))
    pieces = [[as_text(one.get("text"), _PIECE), rounded(as_number(one.get("nats")), 4)] for one in given[:_PIECES]]
    return {"of": len(given), "pieces": pieces} if pieces else None


def _worst(record: dict[str, Any]) -> dict[str, Any] | None:
    rows = [
        {
            "row": as_text(one.get("row")),
            "target": as_text(one.get("target_name")) or as_text(one.get("target")),
            "prediction": as_text(one.get("prediction_name")) or as_text(one.get("prediction")),
            "probability": rounded(as_finite(one.get("probability"))),
            "loss": rounded(as_number(one.get("loss"))),
            "picture": _picture(one.get("picture")),
            "text": as_text(one.get("text"), LONG),
        }
        for one in list(as_records(record.get("rows")))[:_ROWS]
    ]
    return {"rows": rows} if rows else None


def _picture(given: Any) -> dict[str, Any] | None:
    """Grey values as two hexadecimal digits a pixel; of a large picture every nth pixel."""
    picture = as_dict(given)
    width, height = as_whole(picture.get("width")), as_whole(picture.get("height"))
    pixels = as_list(picture.get("pixels"))
    if not width or not height or len(pixels) != width * height:
        return None
    every = -(-max(width, height) // _SIDE)
    grey = [_byte(pixels[y * width + x]) for y in range(0, height, every) for x in range(0, width, every)]
    return {"width": -(-width // every), "height": -(-height // every), "hex": bytes(grey).hex()}


def _byte(value: Any) -> int:
    found = as_finite(value)
    return 0 if found is None else max(0, min(255, round(found)))


def _calibration(record: dict[str, Any]) -> dict[str, Any] | None:
    bins = [
        [rounded(as_finite(one.get(name)), 5) for name in ("confidence", "accuracy", "count")]
        for one in list(as_records(record.get("bins")))[:_BINS]
    ]
    known = [one for one in bins if None not in one and one[2]]
    return {"ece": rounded(as_finite(record.get("ece"))), "bins": known} if known else None


def _findings(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One for each rule and place; how often it was found, and at which step first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        one: dict[str, Any] = {
            name: as_text(record.get(name), LONG) for name in ("rule", "severity", "certainty", "message", "fix")
        }
        one |= {"file": as_text(record.get("file"), LONG), "line": as_whole(record.get("line"))}
        one |= {"source": as_text(record.get("source"), LONG), "step": as_whole(record.get("step")), "times": 0}
        known = found.setdefault((one["rule"], f"{one['file']}:{one['line']}"), one)
        known["times"] += 1
    return {"of": len(found), "list": list(found.values())[:_FINDINGS]}
