"""The source distribution holds what a build needs, and without a compiler it installs in pure Python and says so."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW = """
import torch, xent
from xent.cli import main
print(xent.__file__)
print(xent.choices(torch.zeros(1000, 1000)))
print(xent.cross_entropy(torch.zeros(1000, 1000), torch.zeros(1000, dtype=torch.int64)))
raise SystemExit(main(["doctor", "--env"]))
"""


def python(code: str, cwd: Path, **variables: str) -> str:
    # Without `site`, which would put an editable installation of this checkout before any other.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which the build backend lies."""
    paths = [path for path in sys.path if path]
    if importlib.util.find_spec("scikit_build_core") is None:
        tools = tmp_path_factory.mktemp("tools")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "scikit-build-core>=0.11"]
        subprocess.run(command, check=True, timeout=300)
        paths.insert(0, str(tools))
    return os.pathsep.join(paths)


@pytest.fixture(scope="module")
def sdist(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    python(f"from scikit_build_core.build import build_sdist\nbuild_sdist({str(folder)!r})", ROOT, PYTHONPATH=backend)
    (made,) = folder.glob("xent-*.tar.gz")
    return made


@pytest.mark.slow
def test_the_source_distribution_holds_what_a_build_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"}
    for folder, pattern in (("native", "*.*"), ("src/xent", "*.py"), ("docs/rules", "*.md")):
        found = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern)}
        assert found
        needed |= found
    assert needed - names == set()
    assert [
        name for name in names if name.endswith((".so", ".pyc")) or name.split("/")[0] in (".ci", "runs", "build")
    ] == []


@pytest.mark.slow
def test_without_a_compiler_it_installs_in_pure_python_and_says_why(sdist: Path, backend: str, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xzf", sdist, "-C", tmp_path], check=True)  # tarfile's filter came with Python 3.11.4
    (source,) = tmp_path.iterdir()
    build = f"from scikit_build_core.build import build_wheel\nbuild_wheel({str(tmp_path)!r})"
    python(build, source, PYTHONPATH=backend, CC="false", CXX="false")
    (wheel,) = tmp_path.glob("xent-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if "/_kernels." in name] == ["xent/backends/native/_kernels.pyi"]
        archive.extractall(site)
    shown = python(SHOW, tmp_path, PYTHONPATH=os.pathsep.join([str(site), backend]))
    assert shown.startswith(str(site))
    reason = "the compiled kernels can't be loaded"
    assert "cross_entropy: reference" in shown
    assert f"not native: {reason}" in shown
    assert f"kernels    none: {reason}" in shown
    assert "tensor(6.9078)" in shown
