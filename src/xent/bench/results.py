"""The results file: what was measured, on which machine, when."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xent.bench.machine import slug
from xent.errors import DataError

SCHEMA = 1
DIRECTORY = Path("benchmarks/results")


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def path_for(directory: Path, question: str, machine: dict[str, Any], quick: bool) -> Path:
    """`QUESTION-MACHINE.json`; a quick run never writes over a real one."""
    return directory / f"{question}-{slug(machine)}{'-quick' if quick else ''}.json"


def begin(path: Path, fresh: dict[str, Any], keep: bool) -> dict[str, Any]:
    """`fresh` with an empty list of contests, or with those of the file at `path`.

    Args:
        path: the results file.
        fresh: question, machine and settings of this run.
        keep: whether contests that are measured now join those that are there (`--only`).

    Raises:
        DataError: they were to join those of another machine or of other versions.
    """
    results = {"schema": SCHEMA, **fresh, "contests": []}
    if keep and path.is_file():
        before = load(path)
        if differing := _differing(before["machine"], fresh["machine"]):
            raise DataError(
                f"{path} holds {len(before['contests'])} contests that were measured with other {differing}",
                "contests of one file share their machine and versions",
                "write these elsewhere with --out DIR, or measure all without --only, which replaces the file",
            )
        results["contests"] = before["contests"]
    return results


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(_with_parts(name, before.get(name), now.get(name)) for name in names)


def _with_parts(name: str, old: Any, new: Any) -> str:
    """`versions (torch, triton)` where both are tables, else the name alone."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return name
    parts = sorted(str(key) for key in {*old, *new} if old.get(key) != new.get(key))
    return f"{name} ({', '.join(parts)})"


def add(results: dict[str, Any], contest: dict[str, Any], order: list[str]) -> None:
    """Put a contest in its place; an earlier one of the same name goes."""
    others = [other for other in results["contests"] if other["name"] != contest["name"]]
    rank = {name: position for position, name in enumerate(order)}
    results["contests"] = sorted([*others, contest], key=lambda one: rank.get(one["name"], len(rank)))


def save(path: Path, results: dict[str, Any]) -> None:
    """Replace the file at once: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        json.dump(results, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        DataError: it is not one.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}", "it is a results file of xent bench", "delete it") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise DataError(
            f"{path} is not of schema {SCHEMA}", "it is a results file of this version of xent bench", "delete it"
        )
    return results


def load_all(directory: Path) -> list[dict[str, Any]]:
    """All results of full runs in a directory, by file name."""
    paths = [path for path in sorted(directory.glob("*.json")) if not path.stem.endswith("-quick")]
    return [load(path) for path in paths]
