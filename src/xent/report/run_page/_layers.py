"""Gradient flow: for each layer its measures over the steps, in a table of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from xent.report.run_page._thinning import in_buckets, spread
from xent.report.run_page._values import LONG, as_finite, as_records, as_text, as_whole, rounded

MEASURES = ("gradient_norm", "update_ratio", "update_norm", "weight_norm", "dead_fraction")
_MOST_LAYERS = 48
_MOST_CELLS = 3600  # of a heat-map: what a browser draws in a blink
_MOST_COLUMNS = 120


def layers(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The layers' measures: `cells[measure][layer][column]`, a column being a bucket of recorded steps."""
    found = [record for record in records if as_whole(record.get("step")) is not None]
    tables = [{as_text(one.get("name"), LONG): one for one in as_records(record.get("layers"))} for record in found]
    every = list(dict.fromkeys(name for table in tables for name in table))
    if not every:
        return None
    names = spread(every, _MOST_LAYERS)
    buckets = list(in_buckets(list(zip(found, tables, strict=True)), min(_MOST_CELLS // len(names), _MOST_COLUMNS)))
    cells = {
        measure: [[_cell([table for _, table in bucket], name, measure) for bucket in buckets] for name in names]
        for measure in MEASURES
    }
    return {
        "names": names,
        "of": len(every),
        "records": len(found),
        "columns": [[bucket[0][0]["step"], bucket[-1][0]["step"]] for bucket in buckets],
        "cells": {
            measure: rows for measure, rows in cells.items() if any(one is not None for row in rows for one in row)
        },
    }


def _cell(tables: Sequence[dict[str, Any]], name: str, measure: str) -> float | None:
    """The median over a bucket; None where nothing finite was recorded."""
    values = [as_finite(table[name].get(measure)) for table in tables if name in table]
    finite = [value for value in values if value is not None]
    return rounded(median(finite), 4) if finite else None
