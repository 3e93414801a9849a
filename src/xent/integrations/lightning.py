"""`Watch`: the callback that writes a Lightning training down.

    trainer = lightning.Trainer(callbacks=[xent.integrations.lightning.Watch(out="runs/x")])

The optimizers are those of `configure_optimizers`. Accumulated batches, automatic and manual optimization, precision
plugins and several optimizers are seen as they step.
"""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import Unpack

from xent.inspection.watching._watch import About
from xent.integrations._run_of_trainer import RunOfTrainer


class Watch(Callback):
    """`xent.watch` from the beginning of `fit` to its end; arguments as there, without model and optimizer."""

    def __init__(
        self, out: str | os.PathLike[str] | None = None, every: int | None = None, **about: Unpack[About]
    ) -> None:
        self._run = RunOfTrainer(out, every, dict(about))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin."""
        optimizers = [getattr(each, "optimizer", each) for each in trainer.optimizers]
        self._run.begin(pl_module, optimizers, lambda: dict(pl_module.hparams))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the module logged of its validation."""
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if _is_number(value)}
        loss = found.get("val_loss", found.get("validation_loss"))
        if not trainer.sanity_checking and loss is not None:
            self._run.evaluation("validation", loss=loss, accuracy=found.get("val_acc"), metrics=found)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._run.end(KeyboardInterrupt() if trainer.interrupted else None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End with what was raised."""
        self._run.end(exception)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1
