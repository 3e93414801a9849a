"""Our letters for a stream that has not all of them: − becomes -, 10² becomes 10^2; what draws columns keeps its width.

An error handler of Python's codecs: `stream.reconfigure(errors=PLAIN)`.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

PLAIN = "xent.plain"
_PLAIN = {
    **dict.fromkeys("−–—─‖", "-"),
    **dict.fromkeys("│├┤", "|"),
    **dict.fromkeys("▁▂▃▄░", "."),
    **dict.fromkeys("▅▆▇█▓▒", "#"),
    **{"·": "*", "×": "x", "÷": "/", "⁄": "/", "…": "~", "→": ">", "←": "<", "↑": "^", "⟨": "<", "⟩": ">"},
    **{"●": "*", "○": "o", "└": "`", "≥": ">=", "≤": "<=", "≠": "!=", "±": "+-", "µ": "u"},
    **{"√": "sqrt", "∞": "inf", "Σ": "sum", "Π": "prod", "Δ": "d", "∂": "d", "’": "'", "“": '"', "”": '"'},
    **{"⏎": "\\n", "⇥": "\\t", "␍": "\\r", "␀": "\\0", "␣": "_"},
}
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if text[0] == "·" and error.object[error.start - 1 : error.start] in ("", " "):
        text = "-" + text[1:]  # between words, not between factors
    return "".join(map(_letter, _RAISED.sub(r"^\g<0>", text))), error.end


def _letter(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    flat = unicodedata.normalize("NFKD", letter)  # ₂ is 2, é is e and an accent
    return "".join(each if each.isascii() else _PLAIN.get(each) or _name(each) for each in flat)


def _name(letter: str) -> str:
    if unicodedata.combining(letter):
        return ""
    name = unicodedata.name(letter, "")
    return name.rsplit(" ", 1)[-1].lower() if name.startswith("GREEK SMALL LETTER ") else "?"


codecs.register_error(PLAIN, _plain)
