"""Real text with labels that every machine has: the docstrings of Python's standard library, labelled by package."""

from __future__ import annotations

import ast
import hashlib
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from xent.errors import DataError
from xent.recipes._text_tables import TextRow

_NO_PART_OF_IT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_LEAST = 50  # docstrings of a package that is a class: fewer teach nothing
_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Docstrings:
    """The docstrings of modules, classes and functions of the library's packages, each text once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or Path(sysconfig.get_path("stdlib"))
        self.skipped: Counter[str] = Counter()
        self.first_faults: list[str] = []
        self.share_read = 0.0

    @property
    def name(self) -> str:
        """What it is, in words."""
        return f"docstrings of Python {platform.python_version()}'s standard library, labelled by package"

    @property
    def sha256(self) -> str:
        """Hash of the source files."""
        digest = hashlib.sha256(str(_LEAST).encode())
        for path in self._files():
            digest.update(f"\0{path.relative_to(self.root)}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def rows(self) -> Iterator[TextRow]:
        """Every docstring whose package has enough of them, with its package.

        Raises:
            DataError: the library's source is not there.
        """
        number = 0
        for package, documented in groupby(self._docstrings(), itemgetter(0)):
            texts = [text for _, text in documented]
            if len(texts) >= _LEAST:
                yield from (TextRow(number, text, package) for number, text in enumerate(texts, number + 1))
                number += len(texts)
        if not number:
            raise DataError(
                f"{self.root} holds no source of Python's standard library", "it is the default data", "pass --data"
            )

    def _files(self) -> list[Path]:
        packages = sorted(path.parent for path in self.root.glob("*/__init__.py"))
        return [
            path
            for package in packages
            for path in sorted(package.rglob("*.py"))
            if not _NO_PART_OF_IT & set(path.relative_to(self.root).parts)
        ]

    def _docstrings(self) -> Iterator[tuple[str, str]]:
        seen: set[str] = set()
        files = self._files()
        for done, path in enumerate(files, 1):
            package = path.relative_to(self.root).parts[0]
            for text in _texts(path):
                if text not in seen:  # a docstring that two packages share teaches neither
                    seen.add(text)
                    yield package, text
            self.share_read = done / len(files)


def _texts(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # kept there to be wrong: templates, tests of parsers
        return
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and (text := ast.get_docstring(node)):
            yield text
