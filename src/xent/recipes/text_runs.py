"""Beginning a text run, and going on with one; see `_runs.Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xent.recipes._run_directory import RunDirectory
from xent.recipes._runs import Recipe
from xent.recipes.text import TextLearner, build
from xent.recipes.text_config import TextConfig

RECIPE = Recipe("text", TextConfig, ("loss", "bits", "accuracy", "macro_f1"), build)


def begin(config: TextConfig, out: Path | None = None) -> tuple[TextLearner, RunDirectory]:
    """`Recipe.begin` of a text run."""
    return RECIPE.begin(config, out)


def resume(path: Path, changes: dict[str, Any] | None = None) -> tuple[TextLearner, RunDirectory]:
    """`Recipe.resume` of a text run."""
    return RECIPE.resume(path, changes or {})


def trained(path: Path) -> TextLearner:
    """`Recipe.trained` of a text run."""
    return RECIPE.trained(path)
