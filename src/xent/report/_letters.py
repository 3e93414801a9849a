"""Our letters for a stream that has not all of them: − becomes -, … becomes ~, as wide as before, so that columns stay.

An error handler of Python's codecs: `stream.reconfigure(errors=PLAIN)`.
"""

from __future__ import annotations

import codecs
import unicodedata

PLAIN = "xent.plain"
_PLAIN = str.maketrans(
    {
        **dict.fromkeys("−–—─‖", "-"),
        **dict.fromkeys("│├┤", "|"),
        "·": "*",
        "×": "x",
        **dict.fromkeys("▁▂▃▄░", "."),
        **dict.fromkeys("▅▆▇█▓▒", "#"),
        **{"…": "~", "→": ">", "←": "<", "↑": "^", "÷": "/", "●": "o", "≥": ">=", "≤": "<=", "≠": "!=", "±": "+-"},
        **{"√": "sqrt", "∞": "inf", "Σ": "sum", "Π": "prod", "Δ": "d", "∂": "d", "θ": "theta", "σ": "sigma"},
        **{"ε": "epsilon", "ζ": "zeta", "γ": "gamma", "’": "'", "“": '"', "”": '"', "⏎": "\\n", "⇥": "\\t", "␣": "_"},
    }
)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if text[0] == "·" and error.object[error.start - 1 : error.start] in ("", " "):
        text = "-" + text[1:]  # between words, not between factors
    text = text.translate(_PLAIN)
    flat = unicodedata.normalize("NFKD", text)  # ² is 2, é is e and an accent
    marks = "".join(each for each in flat if not unicodedata.combining(each))
    return "".join(each if each.isascii() else "?" for each in marks), error.end


codecs.register_error(PLAIN, _plain)
