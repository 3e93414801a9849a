"""`Watch`: the callback that writes a training of transformers' Trainer down.

Trainer(…, callbacks=[xent.integrations.transformers.Watch(out="runs/x", decode=tokenizer.decode)])
"""

from __future__ import annotations

import os
from typing import Any

from transformers.trainer_callback import TrainerCallback
from typing_extensions import Unpack

from xent.inspection.watching._watch import About
from xent.integrations._run_of_trainer import RunOfTrainer


class Watch(TrainerCallback):
    """`xent.watch` from the beginning of `train` to its end; arguments as there, without model and optimizer.

    The Trainer tells callbacks of no exception: a training that raises ends its records when the callback goes, with
    the status "failed".
    """

    def __init__(
        self, out: str | os.PathLike[str] | None = None, every: int | None = None, **about: Unpack[About]
    ) -> None:
        self._run = RunOfTrainer(out, every, dict(about))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin."""
        optimizer = kwargs["optimizer"]
        self._run.begin(kwargs["model"], getattr(optimizer, "optimizer", optimizer), lambda: _plain(args.to_dict()))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what was measured."""
        found = kwargs.get("metrics") or {}
        if "eval_loss" in found:
            numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
            self._run.evaluation(
                "validation", loss=found["eval_loss"], accuracy=found.get("eval_accuracy"), metrics=numbers
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        self._run.end()

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None:  # nothing is left to be done by then that could raise
            run.end(RuntimeError("the training ended without saying so"))


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
