"""Run a Python program as `python SCRIPT ARGS…` or `python -m MODULE ARGS…` would, in this process."""

from __future__ import annotations

import io
import os
import runpy
import sys
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from xent.errors import OptionError

_OURS = (str(Path(__file__).parents[1] / "cli") + os.sep, str(Path(__file__).parents[1] / "inspection") + os.sep)
_MACHINERY = (
    "<frozen runpy>",
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
    runpy.__file__,
)


@dataclass(frozen=True)
class Program:
    """What is run: a script (a file, a folder or zip with a __main__.py, "-" for stdin) or a module."""

    script: str | None
    module: str | None
    arguments: tuple[str, ...]

    def check(self) -> None:
        """Whether it is there.

        Raises:
            OptionError: it is not.
        """
        if self.script is not None and self.script != "-" and not Path(self.script).exists():
            raise OptionError(f"no file {self.script}", "a program is run", "pass the path of a script, or -m MODULE")
        if self.script is not None and self.script.endswith(".ipynb"):
            raise OptionError(
                f"{self.script} is a notebook",
                "a program is run",
                "jupyter nbconvert --to script makes one of it; in a cell: with xent.doctor() as report: …",
            )


@dataclass(frozen=True)
class Ending:
    """How a program ended.

    Attributes:
        status: its exit status.
        interrupted: whether by Ctrl-C, so that the process ends as one that a signal ended.
        error: what it raised and nobody caught, in a line; "" where it ended otherwise.
    """

    status: int
    interrupted: bool = False
    error: str = ""


def run(program: Program) -> Ending:
    """Run it to its end; what it raises is printed as Python prints it."""
    try:
        _execute(program)
    except SystemExit as leaving:
        return Ending(_status_of(leaving))
    except KeyboardInterrupt as error:
        _print_exception(error)
        return Ending(130, interrupted=True)
    except BaseException as error:
        _print_exception(error)
        return Ending(1, error=f"{type(error).__name__}: {error}"[:500])
    return Ending(0)


def _execute(program: Program) -> None:
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 14):  # a later Python makes it when the first annotation is met
        main.__annotations__ = {}
    if program.module is not None:
        _put_on_path(os.getcwd())  # noqa: PTH109
        sys.argv[:] = ["-m", *program.arguments]
        runpy._run_module_as_main(program.module)  # type: ignore[attr-defined]  (what `python -m` itself calls)
        return
    script = program.script or ""
    sys.argv[:] = [script, *program.arguments]
    if script == "-":
        _put_on_path("")
        code = compile(sys.stdin.read(), "<stdin>", "exec")
    elif Path(script).is_dir() or zipfile.is_zipfile(script):
        _put_on_path(str(Path(script).absolute()))  # the program may change its folder before it imports
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
        return
    else:
        _put_on_path(str(Path(script).resolve().parent))
        code = _compiled(script, main)
    exec(code, main.__dict__)


def _put_on_path(folder: str) -> None:
    """The first entry is that of the command `xent`, unless Python was told to have none."""
    if not sys.flags.safe_path:
        sys.path[:1] = [folder]


def _compiled(script: str, main: ModuleType) -> CodeType:
    path = os.path.join(os.getcwd(), script)  # noqa: PTH109, PTH118  (as Python does: not normalised)
    main.__file__ = path
    main.__cached__ = None  # type: ignore[attr-defined]
    if script.endswith(".pyc"):
        main.__loader__ = SourcelessFileLoader("__main__", path)
        return main.__loader__.get_code("__main__")  # type: ignore[return-value]  (or ImportError, as in Python)
    main.__loader__ = SourceFileLoader("__main__", path)
    with io.open_code(path) as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _status_of(leaving: SystemExit) -> int:
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _print_exception(error: BaseException) -> None:
    """As Python prints an exception that nobody caught, without the frames of the doctor."""
    _without_our_frames(error, set())
    with suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
    sys.excepthook(type(error), error, error.__traceback__)


def _without_our_frames(error: BaseException | None, seen: set[int]) -> None:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = _program_frames(error.__traceback__)
    _without_our_frames(error.__cause__, seen)
    _without_our_frames(error.__context__, seen)


def _program_frames(trace: TracebackType | None) -> TracebackType | None:
    frames: list[TracebackType] = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    kept = [each for each in frames if not each.tb_frame.f_code.co_filename.startswith(_OURS)]
    if len(kept) < len(frames) and frames[0] not in kept:
        while (
            kept
            and kept[0].tb_frame.f_code.co_filename in _MACHINERY
            and "_run_" not in kept[0].tb_frame.f_code.co_name
        ):
            kept = kept[1:]
    below: TracebackType | None = None
    for each in reversed(kept):
        below = TracebackType(below, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return below
