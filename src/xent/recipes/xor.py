"""XOR: a perceptron, 2 → hidden → 1, solved from logits; or, to see why that fails, with a sigmoid before the loss.

    xent train xor
    xent train xor --sigmoid-before-loss

The loop is in `train`, the mistake in `loss_input`, and the numbers side by side in `compare`. It trains on the four
corners of the square and is validated on points around them. Around it: the options (xor_config.py), beginning and
resuming a run (xor_runs.py), and what recipes share (see digits.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import xent
from xent.nn import BCEWithLogitsLoss
from xent.recipes._display import Display
from xent.recipes._landmarks import Landmarks, bits
from xent.recipes._learner import Learner, finish_epoch
from xent.recipes._run_directory import RunDirectory
from xent.recipes._threads import torch_threads
from xent.recipes.xor_config import XorConfig

CORNERS = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
FLOOR = (math.log1p(math.exp(-1.0)) + math.log(2.0)) / 2  # of BCE with logits where the "logits" lie in (0, 1): 0.5032
SURE = 0.9
_NEIGHBOURS, _SPREAD = 100, 0.25  # points around each corner, and how far they are at most
_CERTAIN = 8.0  # a logit whose sigmoid is 0.9997


@dataclass(frozen=True)
class Points:
    """Points (N, 2) and which of them are on a diagonal of their own, (N,) 0 or 1."""

    features: Tensor
    targets: Tensor


@dataclass(frozen=True)
class XorData:
    """The corners, and points around them."""

    train: Points
    validation: Points
    source: str = "the four corners of the square; validated on points around them"

    @property
    def sha256(self) -> str:
        """Hash of both."""
        tensors = (self.train.features, self.train.targets, self.validation.features, self.validation.targets)
        return hashlib.sha256(repr([tensor.tolist() for tensor in tensors]).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """What config.json says about the data."""
        rows = {"train_rows": len(self.train.targets), "validation_rows": len(self.validation.targets)}
        return {"source": self.source, "sha256": self.sha256, **rows}


@dataclass(frozen=True)
class XorLandmarks(Landmarks):
    """Those of two classes, and the floor of a sigmoid before the loss."""

    @property
    def marks(self) -> tuple[float, ...]:
        """Those that the ruler shows."""
        return (self.floor, self.guessing) if self.floor else (self.guessing,)

    def in_words(self) -> str:
        """Both, in a line or two."""
        line = f"{self.guessing:.4f} = ln 2, guessing"
        return f"{self.floor:.4f} = least loss of a sigmoid before the loss · {line}" if self.floor else line


@dataclass
class XorLearner(Learner[XorConfig, XorData, nn.Sequential]):
    """A perceptron on XOR; the generator has drawn the first weights."""

    @property
    def steps_per_epoch(self) -> int:
        """As many as were asked for."""
        return self.config.steps

    def names(self) -> dict[str, Any]:
        """What XOR says."""
        return {"class_names": ["0", "1"]}

    @property
    def landmarks(self) -> XorLandmarks:
        """What its losses are read against."""
        return XorLandmarks(2, math.log(2), math.log(2), FLOOR if self.config.sigmoid_before_loss else 0.0)


def train(learner: XorLearner, run: RunDirectory, display: Display) -> None:
    """Train up to `config.epochs`, writing every epoch to the run.

    Raises:
        RunError: the loss is no longer finite, or the run can't be written; earlier checkpoints are intact.
        KeyboardInterrupt: as it came; the run can be resumed.
    """
    with torch_threads(1):
        while learner.epoch < learner.config.epochs:
            take_steps(learner, display.steps(range(learner.config.steps)))
            display.epoch(finish_epoch(learner, run, measure(learner)))


def take_steps(learner: XorLearner, steps: Any) -> None:
    """A step on all four corners for each of `steps`."""
    model, optimizer, points = learner.model, learner.optimizer, learner.data.train
    loss_function = BCEWithLogitsLoss()
    for _ in steps:
        logits = model(points.features).squeeze(1)  # forward
        loss = loss_function(loss_input(logits, learner.config), points.targets)  # loss
        loss.backward()  # backward
        optimizer.step()  # step
        optimizer.zero_grad()  # zero_grad


def loss_input(logits: Tensor, config: XorConfig) -> Tensor:
    """What the loss gets: the logits, or, mistakenly, their sigmoid."""
    return torch.sigmoid(logits) if config.sigmoid_before_loss else logits


@torch.no_grad()
def measure(learner: XorLearner) -> dict[str, Any]:
    """Metrics with the weights as they stand: `loss` as it was minimised, `surprisal` of what the model says."""
    return {"train": _evaluate(learner, learner.data.train), "validation": _evaluate(learner, learner.data.validation)}


def _evaluate(learner: XorLearner, points: Points) -> dict[str, float]:
    logits = learner.model(points.features).squeeze(1)
    loss = xent.binary_cross_entropy_with_logits(loss_input(logits, learner.config), points.targets).item()
    surprisal_N = xent.binary_cross_entropy_with_logits(logits, points.targets, reduction="none").double()
    return {
        "rows": len(points.targets),
        "loss": loss,
        "bits": bits(loss),
        "accuracy": ((logits > 0) == points.targets.bool()).double().mean().item(),
        "surprisal": surprisal_N.mean().item(),
        "least_p": surprisal_N.max().neg().exp().item(),
    }


@torch.no_grad()
def two_class_logits(learner: XorLearner, points: Points) -> Tensor:
    """(N, 2), 0 and the model's logit: their cross-entropy is the surprisal of what the model says."""
    logits = learner.model(points.features).squeeze(1)
    return torch.stack([torch.zeros_like(logits), logits], 1)


def compare(learner: XorLearner, metrics: Sequence[dict[str, Any]]) -> list[tuple[str, float | None, float | None]]:
    """What a sigmoid before the loss does, beside the same network, weights and steps without: (what, without, with).

    Args:
        learner: trained with the mistake.
        metrics: of each of its epochs.
    """
    twin = build(replace(learner.config, sigmoid_before_loss=False))
    history = []
    with torch_threads(1):
        for _ in metrics:
            take_steps(twin, range(twin.config.steps))
            history.append(measure(twin))
    last, last_mistaken = history[-1]["train"], metrics[-1]["train"]
    return [
        ("loss that was minimised", last["loss"], last_mistaken["loss"]),
        ("least that it can be", 0.0, FLOOR),
        ("mean −ln p of the right answers", last["surprisal"], last_mistaken["surprisal"]),
        ("accuracy on the corners", last["accuracy"], last_mistaken["accuracy"]),
        (f"epochs until every p is above {SURE}", _sure_after(history), _sure_after(metrics)),
        ("|∂loss/∂logit| of a wrong logit of −8", _gradient(twin.config), _gradient(learner.config)),
    ]


def finding(learner: XorLearner) -> list[str]:
    """What `xent.check` says of the loss."""
    points = learner.data.train
    logits = learner.model(points.features).squeeze(1)
    loss = BCEWithLogitsLoss()(loss_input(logits, learner.config), points.targets)
    return [
        f"{found.rule}: {found.message.rstrip('.')}; {found.fix}" for found in xent.check(loss).findings if found.is_bad
    ]


def corners(learner: XorLearner) -> list[tuple[float, float, int, float, float]]:
    """For each corner: x₁, x₂, target, logit, probability of a 1."""
    with torch.no_grad():
        logits = learner.model(learner.data.train.features).squeeze(1)
    targets = learner.data.train.targets.int().tolist()
    numbers = zip(CORNERS, targets, logits.tolist(), torch.sigmoid(logits).tolist(), strict=True)
    return [(x1, x2, target, logit, p) for (x1, x2), target, logit, p in numbers]


def build(config: XorConfig) -> XorLearner:
    """A learner before its first step."""
    generator = torch.Generator().manual_seed(config.seed)
    corner = torch.tensor(CORNERS)
    around = corner.repeat(_NEIGHBOURS, 1)
    around = around + _SPREAD * (2 * torch.rand(around.shape, generator=torch.Generator().manual_seed(0)) - 1)
    data = XorData(Points(corner, _xor(corner)), Points(around, _xor(around)))
    model = nn.Sequential(_linear(2, config.hidden, generator), nn.Tanh(), _linear(config.hidden, 1, generator))
    return XorLearner(config, data, generator, model, torch.optim.Adam(model.parameters(), lr=config.lr))


def _xor(points_N2: Tensor) -> Tensor:
    high_N2 = points_N2 > 0.5
    return (high_N2[:, 0] ^ high_N2[:, 1]).float()


def _linear(num_inputs: int, num_outputs: int, generator: torch.Generator) -> nn.Linear:
    # By way of "meta", because nn.Linear draws the weights of a real device from the global generator.
    layer = nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.uniform_(layer.bias, -0.5, 0.5, generator=generator)
    return layer


def _sure_after(metrics: Sequence[dict[str, Any]]) -> int | None:
    return next((epoch for epoch, record in enumerate(metrics, 1) if record["train"]["least_p"] > SURE), None)


def _gradient(config: XorConfig) -> float:
    logit = torch.tensor(-_CERTAIN, requires_grad=True)
    xent.binary_cross_entropy_with_logits(loss_input(logit, config), torch.tensor(1.0)).backward()
    return abs(logit.grad.item())  # pyright: ignore[reportOptionalMemberAccess]
