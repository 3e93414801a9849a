"""Which line of the user's program made a call: the innermost frame outside torch and xent."""

from __future__ import annotations

import linecache
import re
import site
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

_XENT = str(Path(__file__).parents[2]) + "/"
_OWN_PROGRAMS = tuple(f"{_XENT}{folder}/" for folder in ("recipes", "bench"))  # programs, though they come with xent
_PATHS = sysconfig.get_paths()
_INSTALLED = tuple(
    f"{path}/" for path in {*site.getsitepackages(), site.getusersitepackages(), _PATHS["purelib"], _PATHS["stdlib"]}
)
_IGNORED = re.compile(r"#\s*xent:\s*ignore\[([^\]]*)\]")


@dataclass(frozen=True)
class CallSite:
    """A line of the user's program.

    Attributes:
        file: as Python knows it.
        line: first line of the expression.
        last_line: its last line.
        function: name of the function it stands in.
        called_from: "train.py:31" where `file` belongs to an installed package, else "".
    """

    file: str
    line: int
    last_line: int
    function: str = ""
    called_from: str = ""

    @property
    def code(self) -> str:
        """The text of the first line, "" where the source is not there."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def ignored(self) -> frozenset[str]:
        """Rules that a `# xent: ignore[RULE]` comment mutes here."""
        names: set[str] = set()
        for line in range(self.line, self.last_line + 1):
            for part in _IGNORED.findall(linecache.getline(self.file, line)):
                names.update(name.strip() for name in part.split(","))
        return frozenset(names)


@lru_cache(maxsize=4096)
def _is_library(file: str) -> bool:
    """Files of torch, of xent, and of Python's own import and run machinery."""
    if file.startswith(_OWN_PROGRAMS):
        return False
    return file.startswith((_XENT, _torch_folder(), "<frozen ")) or file.endswith(("/contextlib.py", "/functools.py"))


@lru_cache(maxsize=1)
def _torch_folder() -> str:
    import torch

    return str(Path(torch.__file__).parent) + "/"


def user_frame(frame: FrameType | None = None) -> FrameType | None:
    """The innermost frame outside torch and xent."""
    frame = sys._getframe(1) if frame is None else frame
    while frame is not None and _is_library(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def key_of(frame: FrameType | None) -> tuple[CodeType, int] | None:
    """Equal for calls from one place of the program."""
    return None if frame is None else (frame.f_code, frame.f_lasti)


def site_of(frame: FrameType | None) -> CallSite | None:
    """The place where a frame is."""
    if frame is None:
        return None
    code = frame.f_code
    line, last = frame.f_lineno, frame.f_lineno
    positions = list(code.co_positions())
    place = frame.f_lasti // 2
    if place < len(positions):
        first, end, *_ = positions[place]
        line, last = first or line, end or last
    return CallSite(code.co_filename, line, last, code.co_name, _called_from(frame))


def _is_installed(file: str) -> bool:
    """Files of packages, also of another environment that a .pth file leads to."""
    return file.startswith(_INSTALLED) or "/site-packages/" in file


def _called_from(frame: FrameType) -> str:
    if not _is_installed(frame.f_code.co_filename):
        return ""
    outer: FrameType | None = frame.f_back
    while outer is not None and (_is_installed(outer.f_code.co_filename) or _is_library(outer.f_code.co_filename)):
        outer = outer.f_back
    return "" if outer is None else f"{outer.f_code.co_filename}:{outer.f_lineno}"
