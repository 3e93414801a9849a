"""Texts into classes: word vectors, an LSTM, its last state or an attention, trained with xent's cross-entropy.

    xent train text
    xent train text --data reviews.csv --text-column body --label-column stars --vectors en_core_web_md

The loop is in `train`. Around it: the options (text_config.py), beginning and resuming a run (text_runs.py), the model
(_text_classifier.py), the table (_text_tables.py) or docstrings (_docstrings.py), their words (_words.py,
_spacy_words.py) kept on disk as numbers (_encoded_texts.py), split and batched (_text_rows.py), and what recipes share
(see digits.py).

The order of the rows is a function of the seed and the epoch, the split of the seed; the global random state is neither
read nor moved. A run keeps its number of threads, because sums of floats depend on how many share them: the same
options give the same weights to the last bit on a machine, interrupted or not.

N rows, C classes
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xent
from xent.distributed import token_mean
from xent.nn import CrossEntropyLoss
from xent.recipes._display import Display
from xent.recipes._encoded_texts import Reading
from xent.recipes._landmarks import Landmarks, bits, landmarks_of
from xent.recipes._learner import finish_epoch
from xent.recipes._parallel_learner import ParallelLearner
from xent.recipes._parallel_model import ParallelModel
from xent.recipes._run_directory import RunDirectory
from xent.recipes._text_classifier import FixedVectors, TextClassifier, initialised, trained_vectors
from xent.recipes._text_rows import TextRows, epoch_order, load_text_rows
from xent.recipes._threads import torch_threads
from xent.recipes.text_config import TextConfig

VOCABULARY = "vocabulary.json"  # in the run directory
CLIP = 1.0  # the largest norm of the gradient that a step follows in full
_ROWS_AT_ONCE = 128  # in an evaluation
_MOST_ROWS, _MOST_LOGITS = 4096, 1 << 22  # that are held, 16 MiB


@dataclass
class TextLearner(ParallelLearner[TextConfig, TextRows, TextClassifier]):
    """A classifier on texts; the generator has drawn the first weights."""

    @cached_property
    def landmarks(self) -> Landmarks:
        """What its losses are read against."""
        return landmarks_of(self.data.labels(self.data.train), len(self.data.texts.label_names))

    @cached_property
    def class_weights(self) -> Tensor | None:
        """(C,) N / (C · rows of the class) in the training part, or None."""
        if not self.config.class_weights:
            return None
        counts_C = torch.bincount(self.data.labels(self.data.train), minlength=self.landmarks.num_classes)
        return len(self.data.train) / (len(counts_C) * counts_C.clamp(min=1).float())

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the training rows."""
        return -(-len(self.data.train) // self.config.batch_size)

    def names(self) -> dict[str, Any]:
        """The labels."""
        return {"class_names": self.data.texts.label_names}

    def files(self) -> dict[str, bytes]:
        """What the numbers of words and classes stand for."""
        content = {"classes": self.data.texts.label_names, "words": self.data.known_words()}
        return {VOCABULARY: json.dumps(content, ensure_ascii=False).encode(errors="surrogatepass")}


def train(learner: TextLearner, run: RunDirectory, display: Display) -> None:
    """Train up to `config.epochs`, writing every epoch to the run.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
        KeyboardInterrupt: as it came; the run can be resumed.
    """
    config, model, optimizer, parallel = learner.config, learner.model, learner.optimizer, learner.parallel
    loss_function = CrossEntropyLoss(weight=learner.class_weights)
    with torch_threads(config.threads or 1):
        while learner.epoch < config.epochs:
            for rows in display.steps(epoch_order(learner.data, config, learner.epoch)):
                if parallel is None:
                    batch = learner.data.batch(rows)
                    logits = model(batch)  # forward
                    loss = loss_function(logits, batch.labels)  # loss
                    loss.backward()  # backward
                else:  # the same on this rank's rows
                    parallel_loss(learner, parallel, rows).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()  # step
                optimizer.zero_grad()  # zero_grad
            display.epoch(finish_epoch(learner, run, measure(learner)))


def parallel_loss(learner: TextLearner, parallel: ParallelModel, rows: Tensor) -> Tensor:
    """The loss of this rank's rows, over the (weighted) rows of all: averaged gradients are those of their mean.

    A rank that gets no row takes one that does not count, because all must come to the sum of the gradients.
    """
    workers, weights_C = parallel.workers, learner.class_weights
    share = workers.share(rows)
    batch = learner.data.batch(share if len(share) else rows[:1])
    counted = batch.labels if len(share) else torch.full_like(batch.labels, -100)
    mean = token_mean(counted, workers.data_group, weight=weights_C)
    return xent.cross_entropy(parallel.forward(batch), counted, weights_C, normalizer=mean.normalizer)


def measure(learner: TextLearner) -> dict[str, Any]:
    """Metrics with the weights as they stand: of all validation rows, and of about as many spread over the others."""
    data = learner.data
    spread = max(1, round(len(data.train) / len(data.validation)))
    with torch_threads(learner.config.threads or 1):
        return {"train": evaluate(learner, data.train[::spread]), "validation": evaluate(learner, data.validation)}


@torch.no_grad()
def evaluate(learner: TextLearner, rows: Tensor) -> dict[str, float]:
    """Loss (Σ surprisal ÷ rows, in nats), bits, accuracy and macro-F1, every row counted once and alike.

    `loss` is without class weights, so that ln C and perplexity mean what they say; a training with class weights
    minimises `weighted_loss`, Σ weight · surprisal ÷ Σ weight, which is then given too. Each rank takes its share of
    every batch, and the sums are added.
    """
    num_classes, weights_C, workers = learner.landmarks.num_classes, learner.class_weights, learner.workers
    nats = weighted = weight = 0.0
    confusion_CC = torch.zeros(num_classes, num_classes, dtype=torch.long)
    by_length = rows[learner.data.lengths(rows).argsort(stable=True)]  # so that little is padding
    for chosen in map(workers.share, by_length.split(_ROWS_AT_ONCE)):
        if not len(chosen):
            continue
        batch = learner.data.batch(chosen)
        _, stats = xent.cross_entropy(learner.model(batch), batch.labels, stats=True)
        nats += stats.loss.double().sum().item()
        places = batch.labels * num_classes + stats.prediction
        confusion_CC += torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)
        if weights_C is not None:
            weight_B = weights_C[batch.labels].double()
            weighted += (weight_B * stats.loss).sum().item()
            weight += weight_B.sum().item()
    nats, weighted, weight = workers.summed([nats, weighted, weight])
    confusion_CC = workers.added(confusion_CC)
    loss = nats / len(rows)
    accuracy = confusion_CC.diagonal().sum().item() / len(rows)
    metrics = {"rows": len(rows), "loss": loss, "bits": bits(loss), "accuracy": accuracy}
    metrics["macro_f1"] = macro_f1(confusion_CC)
    if weights_C is not None:
        metrics["weighted_loss"] = weighted / weight
    return metrics


@torch.no_grad()
def validation_logits(learner: TextLearner) -> tuple[Tensor, Tensor]:
    """The validation rows (N,), of many some spread evenly, and their logits (N, C)."""
    rows = learner.data.validation
    most = max(1, min(_MOST_ROWS, _MOST_LOGITS // learner.landmarks.num_classes))
    if len(rows) > most:
        rows = rows[torch.arange(most) * len(rows) // most]
    with torch_threads(learner.config.threads or 1):
        return rows, torch.cat([learner.model(learner.data.batch(chosen)) for chosen in rows.split(_ROWS_AT_ONCE)])


def macro_f1(confusion_CC: Tensor) -> float:
    """The mean of 2·tp ÷ (2·tp + fp + fn) over the classes that are there or were predicted.

    Args:
        confusion_CC: rows of each class (first) that were predicted as each (second).

    Example:
        >>> macro_f1(torch.tensor([[2, 0, 0], [1, 1, 0], [0, 0, 0]]))  # (4/5 + 2/3) / 2
        0.7333333333333334
    """
    there_C = confusion_CC.sum(0) + confusion_CC.sum(1)
    met = there_C > 0
    return (2 * confusion_CC.diagonal()[met].double() / there_C[met]).mean().item()


def build(config: TextConfig, run: RunDirectory | None = None, reading: Reading | None = None) -> TextLearner:
    """A learner before its first step, its words read or found in the cache.

    Raises:
        OptionError, DataError, DependencyError: a file or pipeline is missing, or not what its name says.
        RunError: the data is not what `run` began with.
    """
    config = replace(
        config,
        threads=config.threads or torch.get_num_threads(),
        vectors=_absolute(config.vectors),
        stop_words=None if config.stop_words is None else str(Path(config.stop_words).absolute()),
    )
    data = load_text_rows(config, run, reading or Reading())
    generator = torch.Generator().manual_seed(config.seed)
    model = initialised(_classifier(config, data), generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    return TextLearner(config, data, generator, model, optimizer)


def _classifier(config: TextConfig, data: TextRows) -> TextClassifier:
    texts = data.texts
    if texts.vectors is not None and texts.has_vector is not None:
        words, num_features = FixedVectors(texts.vectors[texts.has_vector]), texts.vectors.shape[1]
    else:
        num_features = config.to_dict()["features"]
        words = trained_vectors(data.num_words, num_features)
    with torch.device("meta"):
        attention = config.pooling == "attention"
        model = TextClassifier(words, num_features, config.hidden, len(texts.label_names), attention=attention)
    return model


def _absolute(vectors: str | Path | None) -> str | None:
    if vectors is None:
        return None
    return str(Path(vectors).absolute()) if Path(vectors).is_dir() else str(vectors)
