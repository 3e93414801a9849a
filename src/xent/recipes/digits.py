"""Handwritten digits: a multilayer perceptron, D → hidden → 10, trained with xent's cross-entropy.

    xent train digits
    xent train digits --data DIRECTORY_WITH_MNIST_FILES --optimizer adam

The loop is in `train`. Around it: the options (digits_config.py), beginning and resuming a run (digits_runs.py), the
data (_digit_images.py), what a loss is read against (_landmarks.py), the files of a run (_run_directory.py,
_checkpoint.py, _training_state.py), what is shown meanwhile (_display.py).

One generator, seeded once, draws the split, the first weights and the order of the rows of every epoch; the global
random state is neither read nor moved. The loop runs on one thread, because sums of floats depend on how many threads
share them: the same options give the same weights to the last bit on a machine, interrupted or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import xent
from xent.errors import RunError
from xent.nn import CrossEntropyLoss
from xent.recipes._checkpoint import Checkpoint
from xent.recipes._digit_images import DigitImages, Rows, load_digit_images
from xent.recipes._display import Display
from xent.recipes._idx import NUM_CLASSES
from xent.recipes._landmarks import Landmarks, bits, landmarks_of
from xent.recipes._run_directory import RunDirectory
from xent.recipes._training_state import state_tensors
from xent.recipes.digits_config import DigitsConfig


@dataclass
class Learner:
    """A model on its data, and all that moves while it learns.

    Attributes:
        config: the options.
        images: the data.
        generator: draws the order of the rows.
        model: the perceptron.
        optimizer: moves its weights.
        epoch: whole epochs done.
    """

    config: DigitsConfig
    images: DigitImages
    generator: torch.Generator
    model: nn.Sequential
    optimizer: torch.optim.Optimizer
    epoch: int = 0

    @property
    def landmarks(self) -> Landmarks:
        """What its losses are read against."""
        return landmarks_of(self.images.train.labels, NUM_CLASSES, self.config.label_smoothing)

    def checkpoint(self, metrics_bytes: int) -> Checkpoint:
        """Where it stands, with the length of metrics.jsonl that belongs to it."""
        fingerprint = self.config.fingerprint(self.images.sha256)
        return Checkpoint(
            self.epoch, metrics_bytes, fingerprint, state_tensors(self.model, self.optimizer, self.generator)
        )


def train(learner: Learner, run: RunDirectory, display: Display) -> None:
    """Train up to `config.epochs`, writing every epoch to the run.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
        KeyboardInterrupt: as it came; the run can be resumed.
    """
    config, model, optimizer, rows = learner.config, learner.model, learner.optimizer, learner.images.train
    loss_function = CrossEntropyLoss(label_smoothing=config.label_smoothing)
    with one_thread():
        while learner.epoch < config.epochs:
            order = torch.randperm(len(rows), generator=learner.generator)
            for batch in display.steps(order.split(config.batch_size)):
                logits = model(rows.features[batch])  # forward
                loss = loss_function(logits, rows.labels[batch])  # loss
                loss.backward()  # backward
                optimizer.step()  # step
                optimizer.zero_grad()  # zero_grad
            display.epoch(finish_epoch(learner, run))


def finish_epoch(learner: Learner, run: RunDirectory) -> dict[str, Any]:
    """Measure both sets after an epoch, write it to the run, and return its metrics."""
    metrics = measure(learner)
    if not all(math.isfinite(metrics[part]["loss"]) for part in ("train", "validation")):
        raise RunError(
            f"the loss is {metrics['train']['loss']} after epoch {learner.epoch + 1}",
            "it must be finite",
            f"start a new run with an --lr below {learner.config.learning_rate:g}",
        )
    learner.epoch += 1
    record = {"epoch": learner.epoch, **metrics}
    metrics_bytes = run.append_metrics(record)
    run.save(learner.checkpoint(metrics_bytes), learner.model.state_dict())
    return record


def measure(learner: Learner) -> dict[str, Any]:
    """Metrics of the train and the validation rows with the weights as they stand."""
    smoothing = learner.config.label_smoothing
    with one_thread():
        return {
            "train": evaluate(learner.model, learner.images.train, smoothing),
            "validation": evaluate(learner.model, learner.images.validation, smoothing),
        }


@torch.no_grad()
def evaluate(model: nn.Module, rows: Rows, label_smoothing: float = 0.0) -> dict[str, float]:
    """Loss (Σ surprisal ÷ rows, in nats), bits and accuracy over a whole set, every row counted once and alike.

    `loss` is against the labels as they are, so that ln C and perplexity mean what they say; a training with label
    smoothing minimises `smoothed_loss`, which is then given too.
    """
    logits = model(rows.features)
    _, stats = xent.cross_entropy(logits, rows.labels, stats=True)
    loss = stats.loss.double().sum().item() / len(rows)
    metrics = {"rows": len(rows), "loss": loss, "bits": bits(loss), "accuracy": stats.correct.sum().item() / len(rows)}
    if label_smoothing:
        smoothed = xent.cross_entropy(logits, rows.labels, label_smoothing=label_smoothing, reduction="none")
        metrics["smoothed_loss"] = smoothed.double().sum().item() / len(rows)
    return metrics


def build(config: DigitsConfig) -> Learner:
    """A learner before its first step.

    Raises:
        OptionError: `config.data` is no directory with MNIST files.
        DataError: the data is missing or damaged.
    """
    generator = torch.Generator().manual_seed(config.seed)
    images = load_digit_images(config.data, generator)
    model = _perceptron(images.num_features, config.hidden, generator)
    optimizer_class = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.optimizer]
    optimizer = optimizer_class(model.parameters(), lr=config.learning_rate)
    return Learner(config, images, generator, model, optimizer)


def _perceptron(num_features: int, hidden: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        _linear(num_features, hidden, generator),
        nn.ReLU(),
        _linear(hidden, NUM_CLASSES, generator),
    )


def _linear(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Linear:
    # By way of "meta", because nn.Linear draws the weights of a real device from the global generator.
    layer = nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside, and on as many as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
