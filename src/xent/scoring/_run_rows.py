"""The validation rows of a run of `xent train text`: the surprisal of each label, some rows at a time."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xent.recipes._threads import torch_threads
from xent.recipes.text import TextLearner
from xent.recipes.text_runs import trained
from xent.scoring._saved_rows import SavedRows

_ROWS_AT_ONCE = 256


def text_rows(path: Path) -> SavedRows:
    """The validation rows of a run, in the order of its file."""
    learner = trained(path)
    status = (path / "model.safetensors").stat()
    identity: dict[str, object] = {"model": str(path.absolute()), "size": status.st_size, "time": status.st_mtime_ns}
    labels = learner.data.labels(learner.data.validation).long()
    return SavedRows(f"{path}, its validation rows", identity, labels, None, _TextLogits(learner))


class _TextLogits:
    """Logits (N, C) that are made when some of them are read."""

    def __init__(self, learner: TextLearner) -> None:
        self._learner = learner
        self.shape = (len(learner.data.validation), len(learner.data.texts.label_names))

    @torch.no_grad()
    def __getitem__(self, part: slice) -> Tensor:
        learner = self._learner
        with torch_threads(learner.config.threads or 1):
            rows = learner.data.validation[part].split(_ROWS_AT_ONCE)
            return torch.cat([learner.model(learner.data.batch(chosen)) for chosen in rows])
