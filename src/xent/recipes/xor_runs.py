"""Beginning an xor run, and going on with one; see `_runs.Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xent.recipes._run_directory import RunDirectory
from xent.recipes._runs import Recipe
from xent.recipes.xor import XorLearner, build
from xent.recipes.xor_config import XorConfig

RECIPE = Recipe(
    "xor", XorConfig, ("loss", "bits", "accuracy", "surprisal", "least_p"), lambda config, run: build(config)
)


def begin(config: XorConfig, out: Path | None = None) -> tuple[XorLearner, RunDirectory]:
    """`Recipe.begin` of an xor run."""
    return RECIPE.begin(config, out)


def resume(path: Path, changes: dict[str, Any] | None = None) -> tuple[XorLearner, RunDirectory]:
    """`Recipe.resume` of an xor run."""
    return RECIPE.resume(path, changes or {})


def trained(path: Path) -> XorLearner:
    """`Recipe.trained` of an xor run."""
    return RECIPE.trained(path)
