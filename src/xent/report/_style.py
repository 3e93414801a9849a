"""The look of what stands in a notebook: one style sheet, light or dark as the notebook is; no script, no request."""

from __future__ import annotations

_LIGHT = (
    "--ink:#1d2127;--dim:#69707a;--line:#d9dde3;--own:#1f6feb;--good:#17693a;--bad:#b3261e;--warn:#8a5a00;"
    "--soft:#f3f5f8"
)
_DARK = (
    "--ink:#e4e7eb;--dim:#9aa3ae;--line:#3a414b;--own:#79b0ff;--good:#5fce8c;--bad:#ff8f86;--warn:#e8b450;"
    "--soft:#242a32"
)
_SHEET = f"""
.xent{{color-scheme:light;{_LIGHT};color:var(--ink);max-width:66em;
font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}}
@media (prefers-color-scheme:dark){{.xent{{color-scheme:dark;{_DARK}}}}}
[data-jp-theme-light="true"] .xent,.vscode-light .xent{{color-scheme:light;{_LIGHT}}}
[data-jp-theme-light="false"] .xent,.vscode-dark .xent{{color-scheme:dark;{_DARK}}}
.xent p{{margin:.25em 0;white-space:pre-wrap}} .xent .xent-title{{font-weight:600}} .xent .dim{{color:var(--dim)}}
.xent .good{{color:var(--good)}} .xent .bad{{color:var(--bad);font-weight:600}}
.xent .warn{{color:var(--warn);font-weight:600}} .xent .code{{background:var(--soft);padding:.1em .4em;
  overflow-wrap:anywhere}}
.xent .xent-wide{{overflow-x:auto}}
.xent table{{border-collapse:collapse;margin:.3em 0;font:inherit;color:inherit}}
.xent th,.xent td{{padding:.1em .8em .1em 0;text-align:left;white-space:pre;border:0;background:none;color:inherit}}
.xent td{{max-width:18em;overflow:hidden;text-overflow:ellipsis}} .xent td:last-child{{max-width:60em}}
.xent thead th{{color:var(--dim);font-weight:400;border-bottom:1px solid var(--line)}}
.xent .n{{text-align:right;font-variant-numeric:tabular-nums}}
.xent summary{{cursor:pointer;color:var(--dim)}} .xent pre{{background:var(--soft);padding:.6em .8em;overflow-x:auto}}
.xent .ruler{{position:relative;height:2.7em;margin:.7em 1em .2em}}
.xent .ruler i{{position:absolute;left:0;right:0;top:1.35em;border-top:2px solid var(--line)}}
.xent .ruler b{{position:absolute;top:.95em;width:2px;height:.9em;background:var(--dim)}}
.xent .ruler b.here{{width:.9em;height:.9em;margin-left:-.45em;border-radius:50%;background:var(--own)}}
.xent .ruler span{{position:absolute;top:-.3em;transform:translateX(-50%);white-space:nowrap}}
.xent .ruler span.under{{top:1.75em;color:var(--dim)}}
"""


def page(body: str) -> str:
    """A body with its style, to stand in a cell."""
    return f"<div class='xent'><style>{' '.join(_SHEET.split())}</style>{body}</div>"
