"""Files that are whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from xent.errors import DataError, OptionError


def check_place(path: Path) -> None:
    """Raise OptionError where no file can go: its folder does not exist, or it is a folder."""
    if not path.parent.is_dir() or path.is_dir():
        got = f"{path} is a folder" if path.is_dir() else f"{path.parent} is no folder"
        raise OptionError(got, "a file is written", "pass the name of a file in a folder that exists")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that its name always stands for whole content, old or new, whatever interrupts.

    Raises:
        OptionError: its folder does not exist, or it is a folder.
        DataError: it can't be written; what was there is as it was.
    """
    check_place(path)
    try:
        _replace(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(
            f"{path} can't be written ({error.strerror})", "it is written anew", "check its rights"
        ) from error


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
