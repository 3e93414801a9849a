"""Beginning a language_model run, and going on with one; see `_runs.Recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xent.recipes._run_directory import RunDirectory
from xent.recipes._runs import Recipe
from xent.recipes.language_model import LanguageLearner, build
from xent.recipes.language_model_config import LanguageModelConfig

RECIPE = Recipe("language_model", LanguageModelConfig, ("loss", "bits_per_byte"), build)


def begin(config: LanguageModelConfig, out: Path | None = None) -> tuple[LanguageLearner, RunDirectory]:
    """`Recipe.begin` of a language_model run."""
    return RECIPE.begin(config, out)


def resume(path: Path, changes: dict[str, Any] | None = None) -> tuple[LanguageLearner, RunDirectory]:
    """`Recipe.resume` of a language_model run."""
    return RECIPE.resume(path, changes or {})


def trained(path: Path) -> LanguageLearner:
    """`Recipe.trained` of a language_model run."""
    return RECIPE.trained(path)
