"""Rules of the repository that a linter does not know (CONTRIBUTING.md)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CODE = [path for folder in ("src", "tests", "native", "benchmarks") for path in sorted((ROOT / folder).rglob("*.*"))]
HEAVY = {"torch", "numpy", "typer", "rich", "sklearn", "safetensors", "triton"}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def modules_after(code: str) -> set[str]:
    return set(json.loads(run(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))")))


def test_import_loads_nothing_heavy() -> None:
    loaded = modules_after("import xent")
    assert not {name.split(".")[0] for name in loaded} & HEAVY
    assert {name for name in loaded if name.startswith("xent")} == {"xent"}


def test_import_takes_little_more_than_an_empty_program() -> None:
    """The promise is 50 ms; counted in loaded modules, because a timed test lies on a busy machine."""
    added = modules_after("import xent") - modules_after("pass")
    assert len(added) <= 15, sorted(added)
    assert {name.split(".")[0] for name in added} <= {"xent", *sys.stdlib_module_names}


def test_import_changes_nothing_outside_xent() -> None:
    code = (
        "import os; import torch, torch.nn.functional as F;"
        "state = lambda: (dict(os.environ), F.cross_entropy, torch.get_num_threads(), torch.get_rng_state().tolist());"
        "before = state(); import xent; xent.cross_entropy; xent.nn; xent.ops; print(before == state())"
    )
    assert run(code).strip() == "True"


def test_public_names_resolve_and_unknown_ones_raise() -> None:
    import xent

    for name in xent.__all__:
        assert getattr(xent, name) is not None
    assert set(xent.__all__) <= set(dir(xent))
    with pytest.raises(AttributeError, match="no attribute 'mse'"):
        xent.mse  # noqa: B018


def test_no_drawer_files() -> None:
    drawer = re.compile(r"^_?(utils?|common|misc|helpers?)$")
    assert [path for path in CODE if drawer.match(path.stem)] == []


def test_files_stay_readable() -> None:
    long = {path.name: lines for path in CODE if path.suffix in (".py", ".cpp", ".h") and (lines := _lines(path)) > 400}
    assert long == {}


def test_user_input_is_not_checked_with_assert() -> None:
    asserts = [
        f"{path.name}:{n}" for path in SOURCES for n, line in _numbered(path) if line.lstrip().startswith("assert ")
    ]
    assert asserts == []


def test_no_placeholder_is_left_in_a_document() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert pages
    assert [page.name for page in pages if re.search(r"@[A-Z]+@|TODO|TBD", page.read_text(encoding="utf-8"))] == []


def test_only_the_triton_column_imports_triton() -> None:
    pattern = re.compile(r"^\s*(import|from) triton")
    importers = {path for path in SOURCES for _, line in _numbered(path) if pattern.match(line)}
    assert all("triton" in path.parts for path in importers)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: xent installs without its kernels")
def test_where_there_is_a_compiler_there_are_kernels() -> None:
    """A build that fails leaves a pure installation, on which tests/native would be left out unseen."""
    from xent.backends.native import availability

    assert availability() is None


def test_public_docstrings_have_their_parts() -> None:
    from xent import functional
    from xent.ops.choice import OPERATIONS

    parts = ["Args:", "Returns:", "Gradient:", "Edge cases:", "Cost:", "Raises:", "Source:", "Differs from", "Example:"]
    for name in OPERATIONS:
        text = getattr(functional, name).__doc__
        lacking = [part for part in parts if part not in text]
        places = [text.find(part) for part in parts]
        assert not lacking, f"{name} lacks {lacking}"
        assert places == sorted(places), f"{name} has its parts in another order"


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _numbered(path: Path) -> list[tuple[int, str]]:
    return list(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
