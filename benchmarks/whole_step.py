# What does xent.accelerate() change of a whole training step: its time, and its peak memory?
#
#   .venv/bin/python benchmarks/whole_step.py --out benchmarks/results/whole-step
#   .venv/bin/python benchmarks/whole_step.py --model gpt --only time --out benchmarks/results/whole-step
#
# Three models that call torch's cross_entropy as their authors would: a small GPT at a vocabulary of 32,000, an LSTM
# that classifies texts, a U-Net that classifies pixels. A step is forward, loss, backward and Adam. Ways take turns in
# one process and each is timed alone; the time is the median of the rounds. Peak memory is that of a fresh process for
# each way: the peak of one step after two, less what the process held before it (weights and Adam's state are held).
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xent
from xent.bench.machine import describe
from xent.bench.memory import peak_extra_bytes

MIB = 2**20


class Gpt(nn.Module):
    """Two layers of 256 features, a tied head, 4 windows of 256 tokens: 1,024 rows of 32,000 classes."""

    vocabulary, features, windows, length = 32_000, 256, 4, 256

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.vocabulary, self.features)
        layer = nn.TransformerEncoderLayer(
            self.features, 4, 4 * self.features, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(self.features), enable_nested_tensor=False)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def batch(self) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(self.vocabulary, (self.windows, self.length + 1))
        return tokens[:, :-1], tokens[:, 1:]

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens_BT.shape[1])
        return self.layers(self.embedding(tokens_BT), mask=mask, is_causal=True)

    def loss(self, tokens_BT: Tensor, target_BT: Tensor) -> Tensor:
        logits = F.linear(self.hidden(tokens_BT), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), target_BT.flatten())

    def linear_loss(self, tokens_BT: Tensor, target_BT: Tensor) -> Tensor:
        return xent.linear_cross_entropy(self.hidden(tokens_BT), self.embedding.weight, target_BT)


class LstmClassifier(nn.Module):
    """Texts of 64 tokens, 64 at a time, in 20 classes: an LSTM of 128 features on an embedding of 10,000 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10_000, 128)
        self.memory = nn.LSTM(128, 128, batch_first=True)
        self.head = nn.Linear(128, 20)

    def batch(self) -> tuple[Tensor, Tensor]:
        return torch.randint(10_000, (64, 64)), torch.randint(20, (64,))

    def loss(self, tokens_BT: Tensor, target_B: Tensor) -> Tensor:
        hidden_BTD, _ = self.memory(self.embedding(tokens_BT))
        return F.cross_entropy(self.head(hidden_BTD[:, -1]), target_B)


class UNet(nn.Module):
    """Images of 192 × 192, 4 at a time: 147,456 pixels in 21 classes; 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block(3, 16), _block(16, 32), _block(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)])
        self.join = nn.ModuleList([_block(64, 32), _block(32, 16)])
        self.head = nn.Conv2d(16, 21, 1)

    def batch(self) -> tuple[Tensor, Tensor]:
        target = torch.randint(21, (4, 192, 192))
        target[:, :8] = 255  # the border that data sets of pixels leave out
        return torch.randn(4, 3, 192, 192), target

    def loss(self, image: Tensor, target: Tensor) -> Tensor:
        skipped = []
        for place, block in enumerate(self.down):
            image = block(image if place == 0 else F.max_pool2d(image, 2))
            skipped.append(image)
        for up, join, beside in zip(self.up, self.join, skipped[-2::-1], strict=True):
            image = join(torch.cat([up(image), beside], 1))
        return F.cross_entropy(self.head(image), target, ignore_index=255)


def _block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(),
        nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(),
    )  # fmt: skip


MODELS = {"gpt": Gpt, "lstm": LstmClassifier, "unet": UNet}
WAYS = {"torch": "as it is", "accelerate": "xent.accelerate()", "linear": "xent.linear_cross_entropy in its code"}


def ways_of(model: str) -> list[str]:
    return [way for way in WAYS if way != "linear" or hasattr(MODELS[model], "linear_loss")]


def step_of(model: str, way: str) -> Callable[[], float]:
    """A step of a new model, always with the same weights and batch."""
    torch.manual_seed(0)
    module = MODELS[model]()
    batch = module.batch()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-4)
    loss_of = module.linear_loss if way == "linear" else module.loss

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        if way == "accelerate":
            with xent.accelerate():
                loss = loss_of(*batch)
                loss.backward()
        else:
            loss = loss_of(*batch)
            loss.backward()
        optimizer.step()
        return loss.item()

    return step


def timed(model: str, seconds: float) -> dict[str, dict]:
    """Median seconds of a step of each way, in turns, and the losses of the first steps."""
    steps = {way: step_of(model, way) for way in ways_of(model)}
    losses = {way: [step(), step()] for way, step in steps.items()}
    times: dict[str, list[float]] = {way: [] for way in steps}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times["torch"]) < 3:
        order = list(steps) if len(times["torch"]) % 2 else list(steps)[::-1]
        for way in order:
            before = time.perf_counter()
            steps[way]()
            times[way].append(time.perf_counter() - before)
    return {
        way: {"seconds": statistics.median(taken), "rounds": len(taken), "losses": losses[way]}
        for way, taken in times.items()
    }


def peak(model: str, way: str) -> int | None:
    step = step_of(model, way)
    step(), step()
    return peak_extra_bytes(step)


def in_a_fresh_process(model: str, way: str, threads: int) -> int:
    command = [sys.executable, __file__, "--model", model, "--peak", way, "--threads", str(threads)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and peak memory of whole steps, with and without xent.")
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=25, help="of timing, for each model")
    parser.add_argument("--only", choices=["time", "memory"], help="measure one; the other stays as the file has it")
    parser.add_argument("--peak", choices=WAYS, help="measure the memory of one way in this process")
    parser.add_argument("--out", type=Path, help="folder of a JSON file for each model")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.model[0], options.peak))
        return
    for model in options.model:
        path = options.out / f"{model}.json" if options.out else None
        ways = json.loads(path.read_text("utf-8"))["ways"] if path and path.exists() else {}
        if options.only != "memory":
            for way, found in timed(model, options.seconds).items():
                ways[way] = {**ways.get(way, {}), **found}
        if options.only != "time":
            for way in ways_of(model):
                ways[way] = {**ways.get(way, {}), "peak_bytes": in_a_fresh_process(model, way, options.threads)}
        show(model, ways)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            said = {
                "model": model, "about": MODELS[model].__doc__, "threads": options.threads,
                "machine": describe(), "ways": ways,
            }  # fmt: skip
            path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def show(model: str, ways: dict[str, dict]) -> None:
    own = ways["torch"]
    for way, found in ways.items():
        columns = [f"{model:<5} {WAYS[way]:<38}"]
        if "seconds" in found:
            columns.append(f"{1e3 * found['seconds']:8.1f} ms  × {found['seconds'] / own['seconds']:.3f}")
        if "peak_bytes" in found:
            columns.append(f"{found['peak_bytes'] / MIB:7.1f} MiB  × {found['peak_bytes'] / own['peak_bytes']:.3f}")
        if "losses" in found:
            columns.append(f"loss {found['losses'][0]:.6f}")
        print("   ".join(columns), flush=True)


if __name__ == "__main__":
    main()
