"""The charts of the page as Vega-Lite specs, made with Altair. They hold no data: the page's script gives it to them.

Colours are names such as "$own", which the script replaces with those of the light or dark style sheet; the ends of
the axes are parameters that it sets. So one spec serves every run, and a theme is switched without Python.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from xent.report._optional import needed


@cache
def specs() -> dict[str, Any]:
    """Every chart by its name."""
    charts = {
        "lines": _lines("linear"),
        "lines_log": _lines("log"),
        "heat": _heat(),
        "stack": _stack(),
        "reliability": _reliability(),
    }
    return {name: chart.to_dict(validate=True) for name, chart in charts.items()}


_LAYER_LABEL = (  # names of one model begin alike; what tells them apart is their end
    "length(datum.label) > 22 && indexof(datum.label, '.') > 0 ? '…' + slice(datum.label, -20) : datum.label"
)
_STEP_LABEL = "datum.value < 1e5 ? format(datum.value, ',') : format(datum.value, '~s')"


def _altair() -> Any:
    return needed("altair", "a report", extra="report")


def _params(*names: str) -> list[Any]:
    """Numbers, and the ticks of the steps, which the script sets."""
    alt = _altair()
    return [*(alt.param(name=name, value=0) for name in names), alt.param(name="x_ticks", value=[])]


def _ends(low: str, high: str, **options: Any) -> Any:
    alt = _altair()
    zero = {} if options.get("type") == "log" else {"zero": False}
    return alt.Scale(domainMin=alt.ExprRef(low), domainMax=alt.ExprRef(high), nice=False, **zero, **options)


def _steps(field: str = "step:Q", **options: Any) -> Any:
    alt = _altair()
    axis = alt.Axis(
        title=None, grid=False, values=alt.ExprRef("x_ticks"), labelExpr=_STEP_LABEL, labelFlush=True,
        labelOverlap=True, labelSeparation=8,
    )  # fmt: skip
    return alt.X(field, axis=axis, scale=_ends("x0", "x1"), **options)


def _kinds(train: float, evaluation: float) -> Any:
    alt = _altair()
    return alt.condition("datum.kind == 'train'", alt.value(train), alt.value(evaluation))


def _lines(kind: str) -> Any:
    """Curves by step with the band of each, level lines, evaluations as points, and names where the curves end."""
    alt = _altair()
    scale = _ends("y0", "y1", type=kind)
    ticks = {"values": alt.ExprRef("y_ticks")} if kind == "log" else {"tickCount": 5}
    y_axis = alt.Axis(
        title=None, grid=True, domain=False, ticks=False, labelExpr="format(datum.value, y_format)", **ticks
    )
    colour = alt.Color("role:N", legend=None, scale=alt.Scale(domain=["own", "other"], range=["$own", "$bar"]))
    y = alt.Y("value:Q", scale=scale, axis=y_axis)
    levels = alt.Chart(alt.NamedData("levels")).mark_rule(strokeDash=[2, 4], color="$dim", strokeWidth=1).encode(y=y)
    names = alt.Chart(alt.NamedData("names")).mark_text(align="left", dx=8, fontSize=12, clip=False)
    band = alt.Chart(alt.NamedData("lines")).mark_area(opacity=0.16, clip=True, interpolate="linear")
    line = alt.Chart(alt.NamedData("lines")).mark_line(clip=True, strokeJoin="round", strokeCap="round")
    point = alt.Chart(alt.NamedData("points")).mark_point(filled=True, size=26, opacity=1)
    chart = alt.layer(
        levels,
        band.encode(
            x=_steps(), y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour, detail="series:N"
        ).transform_filter("isValid(datum.low)"),
        line.encode(
            x=_steps(), y=y, color=colour, strokeWidth=_kinds(1.2, 2.2), opacity=_kinds(0.75, 1), detail="series:N"
        ),
        point.encode(x=_steps(), y=y, color=colour, detail="series:N"),
        names.encode(
            x=_steps(),
            y=alt.Y("value:Q", scale=scale),
            text="text:N",
            color=alt.Color("role:N", legend=None, scale=alt.Scale(
                domain=["own", "other", "level"], range=["$own", "$dim", "$dim"])),
        ),
    ).resolve_scale(color="independent")  # fmt: skip
    by_hand = [alt.param(name="y_ticks", value=[])] if kind == "log" else []
    return chart.add_params(*_params("x0", "x1", "y0", "y1"), alt.param(name="y_format", value="~g"), *by_hand)


def _heat() -> Any:
    """A row for each layer or class, a column for each bucket of steps."""
    alt = _altair()
    colour = alt.Color(
        "value:Q", legend=None, scale=_ends("c0", "c1", range=["$soft", "$own"], clamp=True, interpolate="lab")
    )
    return (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect()
        .encode(
            x=_steps("from:Q"),
            x2="to:Q",
            y=alt.Y("name:N", sort=None, axis=alt.Axis(
                title=None, domain=False, ticks=False, labelExpr=_LAYER_LABEL, labelLimit=170, labelPadding=8,
                labelOverlap=True)),
            color=alt.condition("isValid(datum.value)", colour, alt.value("$pale")),
        )
        .add_params(*_params("x0", "x1", "c0", "c1"))
    )  # fmt: skip


def _stack() -> Any:
    """Shares of a whole over the steps."""
    alt = _altair()
    colour = alt.Color("part:O", legend=None, scale=alt.Scale(
        domain=list(range(6)), range=[f"$part{place}" for place in range(6)]))  # fmt: skip
    y_axis = alt.Axis(title=None, format=".0%", tickCount=3, grid=False, domain=False, ticks=False)
    return (
        alt.Chart(alt.NamedData("parts"))
        .mark_area(interpolate="step-after", stroke="$paper", strokeWidth=0.6)
        .encode(x=_steps(), y=alt.Y("from:Q", axis=y_axis, scale=alt.Scale(domain=[0, 1])), y2="to:Q", color=colour)
        .add_params(*_params("x0", "x1"))
    )


def _reliability() -> Any:
    """Accuracy by confidence: a point is a bin, its area how many rows it holds, its stem the gap to the diagonal."""
    alt = _altair()
    unit = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(title=None, values=[0, 0.2, 0.4, 0.6, 0.8, 1], format=".0%", grid=False, labelFlush=True)
    x, y = alt.X("confidence:Q", scale=unit, axis=axis), alt.Y("accuracy:Q", scale=unit, axis=axis)
    bins = alt.Chart(alt.NamedData("bins"))
    return alt.layer(
        alt.Chart(alt.NamedData("diagonal")).mark_line(strokeDash=[2, 4], color="$dim", strokeWidth=1).encode(x, y),
        bins.mark_rule(color="$bar", strokeWidth=1.5).encode(x=x, y=y, y2="confidence:Q"),
        bins.mark_circle(color="$own", opacity=0.9, stroke="$paper").encode(
            x=x, y=y, size=alt.Size("count:Q", legend=None, scale=alt.Scale(domainMin=0, range=[24, 420]))),
    )  # fmt: skip
