"""A page of its own: a receipt, tables, and rows to be moved. One file, no request, all text of the caller inert.

The page allows itself the script and the style sheet that it was written with, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from xent.report._files import write_whole
from xent.report._numbers import number
from xent.report._optional import needed
from xent.report._receipt import Line, Receipt, RulerLine, Title
from xent.report._table import ResultTable

_SCRIPTS = (
    "arithmetic.js", "words.js", "state.js", "classes.js", "areas.js", "overflow.js", "guess.js", "main.js",
)  # fmt: skip
# Control characters, and those that turn the direction of what follows: shown as their code, never acted on.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


@dataclass(frozen=True)
class Folded:
    """Something that stands below the receipt, folded: a table, or code."""

    title: str
    content: ResultTable | str

    @property
    def is_code(self) -> bool:
        return isinstance(self.content, str)


def write_page(path: Path, title: str, data: dict[str, Any], receipt: Receipt, folded: list[Folded]) -> None:
    """Write the page.

    Args:
        path: where to.
        title: of the page.
        data: what the script moves, plain values; see `xent.inspection._page`.
        receipt: shown as it is.
        folded: below it.
    """
    jinja, style, script = needed("jinja2", "a page"), _part("base.css") + _part("page.css"), _script()
    loader = jinja.PackageLoader("xent.report", "page")
    template = jinja.Environment(loader=loader, autoescape=True, undefined=jinja.StrictUndefined).get_template(
        "page.html"
    )
    html = template.render(
        title=title,
        style=style,
        script=script,
        policy=_policy(style, script),
        data=inert_json(data),
        blocks=[(_kind(block), block) for block in receipt.blocks],
        folded=folded,
        number=number,
    )
    write_whole(path, seen(html))


def seen(text: str) -> str:
    """The text with characters that would act unseen shown as their code: ⟨U+202E⟩."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def _kind(block: Title | Line | RulerLine | ResultTable) -> str:
    return type(block).__name__


@cache
def _part(name: str) -> str:
    return (resources.files("xent.report") / "page" / name).read_text("utf-8")


@cache
def _script() -> str:
    body = "\n".join(_part(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src '{source_hash(script)}'; style-src '{source_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def source_hash(text: str) -> str:
    """The text as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def inert_json(data: dict[str, Any]) -> str:
    """JSON that can stand in a script element: no `<`, nothing unseen, no numbers that JSON does not have."""
    text = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {seen(str(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return seen(value.replace("\n", "⏎").replace("\t", "⇥"))
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value).replace("inf", "Infinity").replace("nan", "NaN")}
    return value
