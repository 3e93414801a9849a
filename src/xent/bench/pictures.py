"""`python -m xent.bench.pictures`: speed against size, from the results files, as SVG (and PNG with --png)."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from xent.bench import results
from xent.bench.machine import slug

_INK = "#7d8590"  # legible on white and on black
_COLOURS = {"xent": "#2f9e44", "compiled": "#d9730d", "optax": "#8250df", "read": "#6e7781", "clone": "#9a6700"}
_DASHES = {"read": [2, 3], "clone": [6, 3]}
_FLOORS_FROM_LOGITS = 100_000  # below, a bare read takes less time than any call of a loss, and says nothing
_DECADES = [10.0**power for power in range(1, 10)]
_SPEEDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


def points(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Speed of every contestant in every plain float32 forward + backward contest on (N, C)."""
    rows = []
    for contest in result["contests"]:
        plain = contest["name"] == f"both-float32-{'x'.join(map(str, contest['shape']))}"
        if not plain or len(contest["shape"]) != 2:
            continue
        for name, record in contest["contestants"].items():
            tells = name not in _DASHES or contest["num_logits"] >= _FLOORS_FROM_LOGITS
            if name in _COLOURS and tells and "ratio" in record:
                label = result["labels"][name]
                rows.append({"logits": contest["num_logits"], "contestant": label, "speed": record["ratio"]})
    return rows


def chart(result: dict[str, Any]) -> Any:
    """One line per contestant; F.cross_entropy is the horizontal line at 1."""
    alt: Any = import_module("altair")
    labels = {result["labels"][name]: name for name in _COLOURS}
    rows = points(result)
    logarithmic = {"type": "log", "nice": False, "padding": 12}
    speed = alt.Y("speed:Q", title="times as fast as F.cross_entropy").scale(**logarithmic)
    speed = speed.axis(values=_SPEEDS, format="~g")
    logits = alt.X("logits:Q", title="number of logits (rows × classes)").scale(**logarithmic)
    logits = logits.axis(values=_DECADES, format="~s")
    domain, colours = list(labels), list(_COLOURS.values())
    colour = alt.Color("contestant:N", title=None, scale=alt.Scale(domain=domain, range=colours))
    dash = alt.StrokeDash(
        "contestant:N",
        title=None,
        scale=alt.Scale(domain=domain, range=[_DASHES.get(name, [1, 0]) for name in labels.values()]),
    )
    base = alt.Chart(alt.Data(values=rows))
    lines = base.mark_line(strokeWidth=2).encode(x=logits, y=speed, color=colour, strokeDash=dash)
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(x=logits, y=speed, color=colour)
    one = alt.Chart(alt.Data(values=[{"speed": 1}])).mark_rule(color=_INK, strokeWidth=1.5).encode(y="speed:Q")
    machine = result["machine"]
    heading = alt.TitleParams(
        "Forward + backward, float32, (rows, classes)",
        subtitle=f"{machine['cpu']}, {machine['threads']} threads, torch {machine['versions']['torch']}; medians",
        color=_INK,
        subtitleColor=_INK,
        anchor="start",
    )
    axes = {"labelColor": _INK, "titleColor": _INK, "domainColor": _INK, "tickColor": _INK, "gridOpacity": 0.25}
    return (
        (one + lines + dots)
        .properties(width=560, height=320, title=heading, background="transparent")
        .configure_axis(**axes, gridColor=_INK)
        .configure_legend(labelColor=_INK, orient="bottom", labelFontSize=12, symbolStrokeWidth=3)
        .configure_view(stroke=None)
    )


def picture_name(result: dict[str, Any]) -> str:
    """One for each machine."""
    return f"speed-{slug(result['machine'])}.svg"


def draw(results_directory: Path, pictures_directory: Path, png: bool = False) -> list[Path]:
    """Write one picture for each machine with results of the loss question; their paths."""
    paths = []
    for result in results.load_all(results_directory):
        if result["question"] != "cross-entropy" or not points(result):
            continue
        path = pictures_directory / picture_name(result)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = chart(result)
        picture.save(str(path))
        if png:
            picture.save(str(path.with_suffix(".png")), scale_factor=2)
        paths.append(path)
    return paths


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=results.DIRECTORY)
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--png", action="store_true", help="also as PNG, to look at")
    options = parser.parse_args()
    for path in draw(options.results, options.pictures, options.png):
        print(path)


if __name__ == "__main__":
    main()
