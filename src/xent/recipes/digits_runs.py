"""Beginning a digits run, and going on with one; see `_runs.Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xent.recipes._run_directory import RunDirectory
from xent.recipes._runs import Recipe
from xent.recipes.digits import DigitsLearner, build
from xent.recipes.digits_config import DigitsConfig

RECIPE = Recipe("digits", DigitsConfig, ("loss", "bits", "accuracy"), lambda config, run: build(config))


def begin(config: DigitsConfig, out: Path | None = None) -> tuple[DigitsLearner, RunDirectory]:
    """`Recipe.begin` of a digits run."""
    return RECIPE.begin(config, out)


def resume(path: Path, changes: dict[str, Any] | None = None) -> tuple[DigitsLearner, RunDirectory]:
    """`Recipe.resume` of a digits run."""
    return RECIPE.resume(path, changes or {})


def trained(path: Path) -> DigitsLearner:
    """`Recipe.trained` of a digits run."""
    return RECIPE.trained(path)
