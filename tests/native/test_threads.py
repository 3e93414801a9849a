"""Any number of threads gives the same bits; forks, loader workers and calls beside each other compute."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import xent


def value_and_gradient(threads: int, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    torch.set_num_threads(threads)
    leaf = x.detach().requires_grad_()
    with xent.backend("native"):
        loss = xent.cross_entropy(leaf, target, label_smoothing=0.1, reduction="none")
    return loss, torch.autograd.grad(loss.sum() if loss.numel() < 1000 else loss[:999].sum(), leaf)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitwise_equal_for_any_number_of_threads(isa: str, dtype: torch.dtype) -> None:
    if isa == "scalar":
        pytest.skip("the cut into chunks is the same")
    cases = [(torch.randn(600, 3000), 1), (torch.randn(40000, 17), 1), (torch.randn(4, 500, 700), 1)]
    for numbers, dim in cases:
        x = numbers.to(dtype)
        target = torch.randint(0, x.shape[dim], x.movedim(dim, -1).shape[:-1])
        one, *others = (value_and_gradient(threads, x, target) for threads in (1, 2, 7))
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Each of these runs in a process of its own with two threads, whatever OMP_NUM_THREADS says: with one thread nothing
# goes to a pool, and what a pool does to forks and to calls beside each other would not be seen.
_PROCESS = """
import os, threading, torch, xent
from torch.utils.data import DataLoader, Dataset

def loss(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(300, 4000, generator=generator), torch.randint(0, 4000, (300,), generator=generator)
    with xent.backend("native"):
        return float(xent.cross_entropy(x.requires_grad_(), y).detach())

def threads_of_the_process():
    return len(os.listdir("/proc/self/task"))

class Losses(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        torch.set_num_threads(2)  # a worker begins with one
        return loss(index)

torch.set_num_threads(1)
want = [loss(seed) for seed in range(4)]
torch.set_num_threads(2)
"""

_PARENT_USES_THE_POOL = """
before = threads_of_the_process()
assert [loss(seed) for seed in range(4)] == want
assert threads_of_the_process() > before, "the kernels ran on no thread but their caller's"
"""

_FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if [loss(seed) for seed in range(4)] == want else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert [loss(seed) for seed in range(4)] == want
"""

_LOADER = """
assert [float(x) for x in DataLoader(Losses(), batch_size=None, num_workers=2, timeout=60)] == want
"""

_CALLS_BESIDE_EACH_OTHER = """
seen = []
def call():
    torch.set_num_threads(2)
    for _ in range(5):
        seen.append(loss(3))
workers = [threading.Thread(target=call) for _ in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert seen == [want[3]] * 20
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    "script", [_FORK + _CALLS_BESIDE_EACH_OTHER, _LOADER], ids=["a fork and calls beside each other", "a loader"]
)
def test_two_threads_give_the_bits_of_one(script: str) -> None:
    """After a fork, in the workers of a loader, in calls beside each other."""
    command = [sys.executable, "-W", "ignore", "-c", _PROCESS + _PARENT_USES_THE_POOL + script]
    done = subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


_FIRST_USE_IN_A_FORK = """
import os, torch, xent
torch.set_num_threads(2)
torch.rand(1 << 20).sum()  # the pool of this process begins
logits, target = torch.rand(300, 4000), torch.zeros(300, dtype=torch.int64)
with xent.backend("native"):
    child = os.fork()
    if child == 0:
        os._exit(0 if float(xent.cross_entropy(logits, target)) > 0 else 3)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_that_is_the_first_to_use_the_kernels_does_not_wait_for_its_parents_threads() -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FIRST_USE_IN_A_FORK]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
