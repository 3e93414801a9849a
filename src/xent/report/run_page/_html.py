"""The page of runs as one file: style, scripts, the charts' library, and the data, each named in its policy."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from xent.report._optional import needed
from xent.report._page import inert_json, seen, source_hash
from xent.report.run_page._charts import specs
from xent.report.run_page._library import library

_SCRIPTS = (
    "values.js", "state.js", "charts.js", "curves.js", "loss.js", "calibration.js", "where.js", "gradients.js",
    "ledger.js", "findings.js", "time.js", "setup.js", "refresh.js", "main.js",
)  # fmt: skip


def html(data: dict[str, Any], refresh: bool = False) -> str:
    """The page.

    Args:
        data: what it shows; see `_page_data`.
        refresh: whether it asks the server that it came from for newer data.
    """
    jinja, style, script, vega = needed("jinja2", "a report", extra="report"), _style(), _script(), library()
    loader = jinja.PackageLoader("xent.report.run_page", ".")
    template = jinja.Environment(loader=loader, autoescape=True, undefined=jinja.StrictUndefined).get_template(
        "run_page.html"
    )
    return template.render(
        title=title_of(data),
        style=style,
        library=vega,
        script=script,
        policy=_policy(style, (vega, script), refresh),
        data=inert_json(data | {"live": refresh}),
        specs=inert_json(specs()),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def title_of(data: dict[str, Any]) -> str:
    """The names of the runs."""
    names = [run["name"] for run in data["runs"]]
    return seen(", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""))


def _policy(style: str, scripts: tuple[str, ...], refresh: bool) -> str:
    """Nothing but these scripts and this style. The one trusted type is that of an empty text, see `charts.js`."""
    allowed = " ".join(f"'{source_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src '{source_hash(style)}'; img-src data:; "
        f"connect-src {chr(39) + 'self' + chr(39) if refresh else chr(39) + 'none' + chr(39)}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types default"
    )


@cache
def _style() -> str:
    base = (resources.files("xent.report") / "page" / "base.css").read_text("utf-8")
    return base + _part("run_page.css")


@cache
def _script() -> str:
    body = "\n".join(_part(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


def _part(name: str) -> str:
    return (resources.files("xent.report.run_page") / name).read_text("utf-8")
