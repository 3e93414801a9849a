"""Handwritten digits: a multilayer perceptron, D → hidden → 10, trained with xent's cross-entropy.

    xent train digits
    xent train digits --data DIRECTORY_WITH_MNIST_FILES --optimizer adam

The loop is in `train`. Around it: the options (digits_config.py), beginning and resuming a run (digits_runs.py), the
data (_digit_images.py), what a loss is read against (_landmarks.py), what recipes share (_learner.py, _runs.py), the
files of a run (_run_directory.py, _checkpoint.py, _training_state.py), what is shown meanwhile (_display.py).

One generator, seeded once, draws the split, the first weights and the order of the rows of every epoch; the global
random state is neither read nor moved. The loop runs on one thread, because sums of floats depend on how many threads
share them: the same options give the same weights to the last bit on a machine, interrupted or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import xent
from xent.nn import CrossEntropyLoss
from xent.recipes._digit_images import DigitImages, Rows, load_digit_images
from xent.recipes._display import Display
from xent.recipes._idx import NUM_CLASSES
from xent.recipes._landmarks import Landmarks, bits, landmarks_of
from xent.recipes._learner import Learner, finish_epoch
from xent.recipes._run_directory import RunDirectory
from xent.recipes._threads import torch_threads
from xent.recipes.digits_config import DigitsConfig


@dataclass
class DigitsLearner(Learner[DigitsConfig, DigitImages, nn.Sequential]):
    """A perceptron on digits; the generator draws the order of the rows."""

    @property
    def landmarks(self) -> Landmarks:
        """What its losses are read against."""
        return landmarks_of(self.data.train.labels, NUM_CLASSES, self.config.label_smoothing)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the training rows."""
        return -(-len(self.data.train) // self.config.batch_size)

    def names(self) -> dict[str, Any]:
        """The digits."""
        return {"class_names": [str(digit) for digit in range(NUM_CLASSES)]}


def train(learner: DigitsLearner, run: RunDirectory, display: Display) -> None:
    """Train up to `config.epochs`, writing every epoch to the run.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
        KeyboardInterrupt: as it came; the run can be resumed.
    """
    config, model, optimizer, rows = learner.config, learner.model, learner.optimizer, learner.data.train
    loss_function = CrossEntropyLoss(label_smoothing=config.label_smoothing)
    with torch_threads(1):
        while learner.epoch < config.epochs:
            order = torch.randperm(len(rows), generator=learner.generator)
            for batch in display.steps(order.split(config.batch_size)):
                logits = model(rows.features[batch])  # forward
                loss = loss_function(logits, rows.labels[batch])  # loss
                loss.backward()  # backward
                optimizer.step()  # step
                optimizer.zero_grad()  # zero_grad
            display.epoch(finish_epoch(learner, run, measure(learner)))


def measure(learner: DigitsLearner) -> dict[str, Any]:
    """Metrics of the train and the validation rows with the weights as they stand."""
    smoothing = learner.config.label_smoothing
    with torch_threads(1):
        return {
            "train": evaluate(learner.model, learner.data.train, smoothing),
            "validation": evaluate(learner.model, learner.data.validation, smoothing),
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


def build(config: DigitsConfig) -> DigitsLearner:
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
    return DigitsLearner(config, images, generator, model, optimizer)


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
