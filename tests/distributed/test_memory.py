"""How much memory a rank takes: measured, as the rise of the resident high-water mark in a process of its own.

The group has one rank, which holds what a rank of many would; 8 MiB is what a product packs and malloc rounds up.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]
MIB, ROWS, CLASSES, FEATURES = 1 << 20, 2048, 20000, 256

BEGIN = """
import sys, torch, torch.distributed as dist
from xent.bench.memory import peak_extra_bytes
from xent.distributed import vocab_parallel_cross_entropy, vocab_parallel_linear_cross_entropy
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
dtype, ROWS, CLASSES, FEATURES = getattr(torch, sys.argv[1]), 2048, 20000, 256
target = torch.randint(0, CLASSES, (ROWS,))
"""
LINEAR = """
hidden = torch.randn(ROWS, FEATURES).to(dtype).requires_grad_()
weight = torch.randn(CLASSES, FEATURES).to(dtype).requires_grad_()
soft = torch.rand(ROWS, CLASSES) if sys.argv[3] == "soft" else target
def step():
    hidden.grad = weight.grad = None
    vocab_parallel_linear_cross_entropy(
        hidden, weight, soft, group=dist.group.WORLD, max_memory=int(sys.argv[2]) or None, label_smoothing=0.1
    ).backward()
step()
hidden.grad = weight.grad = None
print(peak_extra_bytes(step))
"""
LOGITS = """
logits = torch.randn(ROWS, CLASSES).to(dtype)
soft = torch.rand(ROWS, CLASSES).to(dtype) if sys.argv[3] == "soft" else target
def step():
    given = logits.detach().requires_grad_()
    vocab_parallel_cross_entropy(given, soft, group=dist.group.WORLD, label_smoothing=0.1, z_loss=1e-4).backward()
    return given.grad
step()
print(peak_extra_bytes(step))
"""


def peak(script: str, dtype: str, bound: int, target: str) -> int:
    command = [sys.executable, "-c", BEGIN + script, dtype, str(bound), target]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # else glibc may keep a chunk that was freed
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.parametrize(
    ("dtype", "bound", "target"),
    [
        ("float32", 0, "hard"),
        ("float32", 24 * MIB, "hard"),
        ("float32", 24 * MIB, "soft"),
        ("bfloat16", 0, "hard"),
        ("bfloat16", 40 * MIB, "hard"),
        ("bfloat16", 24 * MIB, "soft"),
        ("bfloat16", 6 * MIB, "hard"),
    ],
)
def test_the_linear_loss_keeps_to_its_bound(dtype: str, bound: int, target: str) -> None:
    """The logits would take 156 MiB in float32, 78 in bfloat16; a float32 sum of the weight's gradient 20."""
    sent = ROWS * FEATURES * 4 if dtype == "bfloat16" else 0
    gradients = (CLASSES + ROWS) * FEATURES * (4 if dtype == "float32" else 2)
    assert peak(LINEAR, dtype, bound, target) <= gradients + sent + (bound or 64 * MIB) + 8 * MIB


PLAIN = LOGITS.replace("label_smoothing=0.1, z_loss=1e-4", "z_loss=1e-4")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_plain_loss_of_logits_takes_its_gradient_and_few_bytes_a_row(dtype: str) -> None:
    """At most 48 bytes a row are there at a time; 32 pages come and go with Python. With a tensor a step, 300."""
    gradient = ROWS * CLASSES * (4 if dtype == "float32" else 2)
    assert peak(PLAIN, dtype, 0, "hard") <= gradient + 48 * ROWS + 32 * 4096


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_of_logits_takes_its_gradient_and_no_copy(dtype: str, target: str) -> None:
    """A copy of logits or smoothed targets would be 156 or 78 MiB; a row takes some hundred bytes."""
    gradient = ROWS * CLASSES * (4 if dtype == "float32" else 2)
    assert peak(LOGITS, dtype, 0, target) <= gradient + 2 * MIB
