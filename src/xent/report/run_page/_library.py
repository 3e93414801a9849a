"""The charts' library: vega, vega-lite and vega-embed in one script, kept between runs.

They are the work of the University of Washington Interactive Data Lab and others, under the BSD-3-Clause licence;
vl-convert carries them, and takes seconds to make one script of them.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from xent.errors import XentError
from xent.report._files import write_whole
from xent.report._optional import needed
from xent.report._page import source_hash


@cache
def library() -> str:
    """The script, from the user's cache if it is there and whole."""
    altair, convert = needed("altair", "a report", "report"), needed("vl_convert", "a report", "report")
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    kept = _cache() / f"vega-lite-{version}-{convert.__version__}.js"
    found = _whole(kept)
    if found is None:
        found = convert.javascript_bundle(vl_version=version).replace("</script", "<\\/script").replace("\r", "\n")
        _keep(kept, found)
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xent"


def _whole(path: Path) -> str | None:
    """The script, if it has the hash that its first line names."""
    try:
        first, _, script = path.read_text("utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return script if first == f"// {source_hash(script)}" else None


def _keep(path: Path, script: str) -> None:
    """Keep it for the next time; a home that can't be written costs the seconds again, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"// {source_hash(script)}\n{script}")
    except (OSError, XentError):
        return
