"""What the server of `ranks` loads, once for all processes that it makes."""

import xent.cli._main
import xent.recipes._checkpoint_parts
import xent.recipes._sampling
import xent.recipes._worker_runs
import xent.recipes.language_model_runs
import xent.recipes.text_runs  # noqa: F401
